select fill, generation, reason, apps, lsn::text, snapshot_xmin::text, whole, skip_from, filled_from, filled_to,
       (extract(epoch from started_at) * 1000000)::int8, rows, app_id, user_id, created_at::text, id::text
from mana_ai.cdc_fills
where fill = %s
