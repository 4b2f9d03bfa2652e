update mana_ai.mission_runs
set state = 'written', decision = %(decision)s, reason = %(reason)s, change_id = %(change_id)s, written_at = now(),
    next_attempt_at = null, updated_at = now()
where run_id = %(run_id)s and state = 'planned'
