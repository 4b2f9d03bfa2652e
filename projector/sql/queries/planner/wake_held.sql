-- A place of this agent became free: who waits for it need not wait longer.
with ended as (
    select %(user_id)s::text as user_id, %(agent_id)s::text as agent_id
), waiting as (
    {waiting}
)
update mana_ai.mission_runs r
set next_attempt_at = now(), updated_at = now()
from waiting
where r.run_id = waiting.run_id
