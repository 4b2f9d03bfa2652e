-- Part of a query: those of the runs named that this worker holds, locked. In order, as whoever locks several runs does,
-- so that two do not wait for each other in a circle.
select run_id
from mana_ai.mission_runs
where run_id = any(%(run_ids)s) and lease_owner = %(owner)s  -- and so at work
order by run_id
for update
