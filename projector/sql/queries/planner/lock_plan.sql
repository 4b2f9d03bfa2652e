-- The plan, locked, and with it its mission: one writer at a time per mission. Never a lock on a row of a view: its
-- engine would wait for us.
with locked as materialized (
    select user_id, mission_id, agent_id, due_at, iteration_id, plan, started_at, planned_at
    from mana_ai.mission_runs
    where run_id = %(run_id)s and user_id = %(user_id)s and state = 'planned'
    for update
)
select mission_id, agent_id, due_at, iteration_id, plan, started_at, planned_at
from locked
where pg_advisory_xact_lock(hashtextextended(user_id || chr(31) || mission_id, 2)) is not null  -- it always is
