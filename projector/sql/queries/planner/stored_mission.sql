select state from mana_ai.mission_snapshots where user_id = %(user_id)s and mission_id = %(mission_id)s
