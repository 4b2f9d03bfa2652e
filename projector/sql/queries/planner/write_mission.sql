insert into sync_changes
    (id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id, schema_version, actor, origin, space_id)
values
    (%(id)s, 'ai', 'aiMissions', %(mission_id)s, %(user_id)s, 'update', %(data)s, %(field_meta)s, 'mana-ai-runner', 1,
     %(actor)s, %(origin)s, null)
on conflict (id) do nothing
