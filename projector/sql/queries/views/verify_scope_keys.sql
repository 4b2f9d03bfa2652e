-- The rows of sync_changes of some records of a view, without those of some changes.
-- Lateral: one look into the index on (table_name, record_id, created_at) for each record, whatever the planner guesses.
select found.*
from unnest(%(user_ids)s::text[], %(app_ids)s::text[], %(tables)s::text[], %(record_ids)s::text[])
     as wanted (user_id, app_id, table_name, record_id)
cross join lateral (
    select *
    from sync_changes log
    where log.table_name = wanted.table_name and log.record_id = wanted.record_id
      and log.user_id = wanted.user_id and log.app_id = wanted.app_id
    offset 0
) as found
where found.id <> all (%(without)s::uuid[])
