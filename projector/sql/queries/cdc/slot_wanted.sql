update mana_ai.cdc_sources set slot_ready = false where generation = %s
