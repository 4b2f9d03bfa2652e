delete from mana_ai.cdc_sources where generation = %s and consistent_lsn is null
