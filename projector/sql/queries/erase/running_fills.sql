select count(*) from mana_ai.cdc_fills where user_id = %(user)s and finished_at is null
