update mana_ai.cdc_fills set finished_at = clock_timestamp(), reported_at = clock_timestamp() where fill = %s
