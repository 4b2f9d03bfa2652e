-- What the log holds of one record now, each row as its topic would carry it.
-- Served by the index on (table_name, record_id, created_at).
select json_build_object(
    'id', id, 'app_id', app_id, 'table_name', table_name, 'record_id', record_id, 'user_id', user_id,
    'op', op, 'data', data, 'field_meta', field_meta, 'client_id', client_id,
    'created_at', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'schema_version', schema_version, 'actor', actor, 'origin', origin, 'space_id', space_id
)::text
from sync_changes
where user_id = %(user_id)s and app_id = %(app_id)s and table_name = %(table_name)s and record_id = %(record_id)s
  and created_at >= %(since)s
order by created_at, id
