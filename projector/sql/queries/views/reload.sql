-- What the log holds of one record now, each row as its topic would carry it.
-- Served by the index on (table_name, record_id, created_at).
select {value}
from sync_changes
where user_id = %(user_id)s and app_id = %(app_id)s and table_name = %(table_name)s and record_id = %(record_id)s
  and created_at >= %(since)s
order by created_at, id
