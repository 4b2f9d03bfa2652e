-- The rows of sync_changes of a view, of users after one and up to another. Served by the indexes that lead with user_id.
select *
from sync_changes
where app_id = any (%(apps)s)
  and ((app_id, table_name) in (select * from unnest(%(source_apps)s::text[], %(source_tables)s::text[]))) = %(named)s
  and (%(users)s::text[] is null or user_id = any (%(users)s))
  and (%(after)s::text is null or user_id > %(after)s)
  and (%(upto)s::text is null or user_id <= %(upto)s)
