update mana_ai.cdc_fills
set resumed_at = now(), resumed_rows = rows, total = %s, reported_at = now()
where fill = %s
