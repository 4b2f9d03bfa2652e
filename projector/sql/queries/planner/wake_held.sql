-- For each run that ended a place of its agent became free, or tokens that were reserved: who waits for them need not
-- wait longer.
with ended as (
    select user_id, agent_id, count(*) as places
    from unnest(%(users)s::text[], %(agents)s::text[]) as e (user_id, agent_id)
    group by user_id, agent_id
), waiting as (
    select held.run_id
    from ended
    cross join lateral (
        select run_id, row_number() over (order by created_at, run_id) as turn
        from mana_ai.mission_runs
        where user_id = ended.user_id and agent_id = ended.agent_id and state = 'held'
          and decision in ('skipped-concurrency', 'skipped-reserved') and next_attempt_at > now()
    ) held
    where held.turn <= ended.places
), free as (
    select r.run_id
    from mana_ai.mission_runs r join waiting using (run_id)
    where r.state = 'held'
    for update of r skip locked
)
update mana_ai.mission_runs r
set next_attempt_at = now(), updated_at = now()
from free
where r.run_id = free.run_id
