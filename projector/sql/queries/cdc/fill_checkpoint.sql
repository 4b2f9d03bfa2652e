update mana_ai.cdc_fills
set app_id = %s, user_id = %s, created_at = %s::timestamptz, id = %s::uuid, rows = %s, total = %s,
    filled_to = %s::jsonb, reported_at = clock_timestamp()
where fill = %s
