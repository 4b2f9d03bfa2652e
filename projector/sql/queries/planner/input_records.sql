-- All records that a mission's inputs name, with the place of each among them. The limit keeps each a lookup by key.
select wanted.place, found.record, found.deleted, found.complete
from unnest(%(apps)s::text[], %(tables)s::text[], %(ids)s::text[]) with ordinality
     as wanted (app_id, table_name, record_id, place)
cross join lateral (
    select r.record, r.deleted, r.complete
    from mana_ai.record_snapshots r
    where r.user_id = %(user_id)s and r.app_id = wanted.app_id and r.table_name = wanted.table_name
      and r.record_id = wanted.record_id
    limit 1
) found
