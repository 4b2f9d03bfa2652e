insert into mana_ai.cdc_dead_letters (source, lsn, ord, topic, change_id, user_id, size, reason)
values (%s, %s::pg_lsn, %s, %s, %s, %s, %s, %s)
on conflict (source, lsn, ord, change_id) do nothing
