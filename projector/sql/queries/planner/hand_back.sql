-- A worker that stops returns what it has not finished: what was stored stays, and the attempt does not count.
with mine as (
    select run_id
    from mana_ai.mission_runs
    where lease_owner = %(owner)s and state = 'running'
    order by run_id
    for update
)
update mana_ai.mission_runs r
set state = 'due', lease_owner = null, lease_until = null, admitted_at = null,
    attempts = greatest(r.attempts - 1, 0), next_attempt_at = now(), updated_at = now()
from mine
where r.run_id = mine.run_id
returning r.run_id
