select slot_name from mana_ai.cdc_sources where consistent_lsn is not null order by generation desc limit 1
