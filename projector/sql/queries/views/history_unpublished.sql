-- Changes of one record that the topics may not hold yet: of transactions not below the newest horizon. No row without
-- a watermark. xmin has 32 bits: it is widened by the epoch of the newest transaction id (see cdc/list_fill_rows).
select c.id::text
from sync_changes c
cross join (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) x
cross join (select horizon::text::bigint as xid from mana_ai.cdc_watermarks order by id desc limit 1) horizon
where c.user_id = %(user_id)s and c.app_id = %(app_id)s and c.table_name = %(table_name)s
  and c.record_id = %(record_id)s
  and (x.next >> 32 << 32) + c.xmin::text::bigint
      - case when c.xmin::text::bigint > (x.next & 4294967295) then 4294967296 else 0 end >= horizon.xid
