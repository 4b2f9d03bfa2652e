-- The run passed its gates: from here on it counts against its agent's limits, and its question stands.
update mana_ai.mission_runs
set admitted_at = now(), reserved_tokens = %(reserved)s, agent_id = %(agent_id)s, brief = %(brief)s,
    decision = 'admitted', reason = null, updated_at = now()
where run_id = %(run_id)s and lease_owner = %(owner)s and state = 'running'
