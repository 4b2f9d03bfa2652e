select seq, response from mana_ai.run_steps where run_id = %(run_id)s
