-- One change of a device, as the sync server stores it: no origin, created_at by the server's clock.
insert into sync_changes (app_id, table_name, record_id, user_id, op, data, field_meta, client_id, schema_version,
                          actor, origin, space_id)
values (%(app_id)s, %(table)s, %(record_id)s, %(user_id)s, %(op)s, %(data)s::jsonb, %(field_meta)s::jsonb,
        %(client_id)s, 1, %(actor)s::jsonb, null, %(space_id)s)
