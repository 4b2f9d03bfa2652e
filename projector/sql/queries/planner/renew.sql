-- Prolongs the leases that this worker still holds, and says which those are.
with mine as (
    select run_id
    from mana_ai.mission_runs
    where run_id = any(%(run_ids)s) and lease_owner = %(owner)s  -- and so at work
    order by run_id
    for update
)
update mana_ai.mission_runs r
set lease_until = now() + make_interval(secs => %(lease_s)s), updated_at = now()
from mine
where r.run_id = mine.run_id
returning r.run_id
