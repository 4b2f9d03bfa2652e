-- When the oldest change of a record was created, in ms since 1970; null when the log holds none.
select (extract(epoch from min(created_at)) * 1000)::float8
from sync_changes
where user_id = %(user_id)s and app_id = %(app_id)s and table_name = %(table_name)s and record_id = %(record_id)s
