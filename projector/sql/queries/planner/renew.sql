-- Prolongs the leases that this worker still holds, and says which those are.
with mine as (
    {mine}
)
update mana_ai.mission_runs r
set lease_until = now() + make_interval(secs => %(lease_s)s), updated_at = now()
from mine
where r.run_id = mine.run_id
returning r.run_id
