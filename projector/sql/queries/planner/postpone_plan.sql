update mana_ai.mission_runs
set next_attempt_at = now() + make_interval(secs => %(wait_s)s), updated_at = now()
where run_id = %(run_id)s and state = 'planned'
