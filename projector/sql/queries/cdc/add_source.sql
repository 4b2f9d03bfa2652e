insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) values (%s, %s, %s)
on conflict (generation) do nothing
