update mana_ai.cdc_fills
set step_done = %s, reported_at = clock_timestamp()
where fill = %s
