select app_id, lsn::text from mana_ai.cdc_apps where generation = %s
