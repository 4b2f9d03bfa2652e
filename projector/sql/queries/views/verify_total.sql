select count(*)
from sync_changes
where app_id = any (%(apps)s)
  and ((app_id, table_name) in (select * from unnest(%(source_apps)s::text[], %(source_tables)s::text[]))) = %(named)s
  and (%(users)s::text[] is null or user_id = any (%(users)s))
