select user_id, zone, set_at from mana_ai.user_zones order by user_id
