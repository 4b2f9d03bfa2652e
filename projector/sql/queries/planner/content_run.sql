select brief, plan from mana_ai.mission_runs where run_id = %(run_id)s
