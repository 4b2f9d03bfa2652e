-- The record's rows that the view may not have seen, each as its topic carries it.
-- Served by the index on (table_name, record_id, created_at).
select json_build_object(
    'id', id, 'app_id', app_id, 'table_name', table_name, 'record_id', record_id, 'user_id', user_id, 'op', op,
    'data', data, 'field_meta', field_meta, 'client_id', client_id,
    'created_at', to_char(created_at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
    'schema_version', schema_version, 'actor', actor, 'origin', origin, 'space_id', space_id)::text
from sync_changes
where app_id = 'ai' and table_name = 'aiMissions' and record_id = %(mission_id)s and user_id = %(user_id)s
  and created_at >= %(since)s
