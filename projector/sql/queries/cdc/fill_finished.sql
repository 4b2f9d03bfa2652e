-- Where it came to names a user, and nobody asks for it any more.
update mana_ai.cdc_fills
set finished_at = clock_timestamp(), reported_at = clock_timestamp(),
    app_id = null, user_id = null, created_at = null, id = null
where fill = %s
