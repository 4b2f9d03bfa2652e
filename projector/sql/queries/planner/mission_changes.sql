-- Rows of a mission, whole.
select {value}
from sync_changes
where id = any(%(ids)s::uuid[]) and user_id = %(user_id)s and app_id = %(app_id)s and table_name = %(table_name)s
  and record_id = %(mission_id)s
