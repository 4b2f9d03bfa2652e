update mana_ai.cdc_fills
set step = %s, step_done = 0, total = %s, resumed_at = now(), resumed_rows = rows, reported_at = now()
where fill = %s
