-- Stamped as late as can be: whoever pulled meanwhile looks for later rows only. In the record's space, by which the
-- devices of its other members pull.
insert into sync_changes
    (id, app_id, table_name, record_id, user_id, op, data, field_meta, client_id, schema_version, actor, origin, space_id,
     created_at)
values
    (%(id)s, 'ai', 'aiMissions', %(mission_id)s, %(user_id)s, 'update', %(data)s, %(field_meta)s, 'mana-ai-runner', 1,
     %(actor)s, %(origin)s, %(space_id)s, clock_timestamp())
on conflict (id) do nothing
returning created_at
