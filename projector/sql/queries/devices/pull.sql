-- A page of other clients' rows of one user and app, after the row that the device has seen last.
select id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id, created_at, schema_version,
       actor, origin, space_id
from sync_changes
where user_id = %(user_id)s
  and app_id = %(app_id)s
  and client_id <> %(client_id)s
  and (created_at, id) > (%(created_at)s, %(id)s::uuid)
order by created_at, id
limit %(limit)s
