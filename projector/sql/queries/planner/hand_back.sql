-- A worker that stops returns what it has not finished: what was stored stays, and the attempt does not count.
update mana_ai.mission_runs
set state = 'due', lease_owner = null, lease_until = null, admitted_at = null,
    attempts = greatest(attempts - 1, 0), next_attempt_at = now(), updated_at = now()
where lease_owner = %(owner)s and state = 'running'
returning run_id
