-- Prolongs the leases that this worker still holds, and says which those are.
update mana_ai.mission_runs
set lease_until = now() + make_interval(secs => %(lease_s)s), updated_at = now()
where run_id = any(%(run_ids)s) and lease_owner = %(owner)s and state = 'running'
returning run_id
