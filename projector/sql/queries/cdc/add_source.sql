insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) values (%s, %s, %s)
on conflict (generation) do update
    set system_identifier = excluded.system_identifier, slot_name = excluded.slot_name, created_at = now()
    where cdc_sources.consistent_lsn is null
