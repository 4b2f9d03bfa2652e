select zone from mana_ai.user_zones where user_id = %(user_id)s
