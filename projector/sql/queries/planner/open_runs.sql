-- Opens a run for each mission given and announces those opened here. Two schedulers may do this at once:
-- the order of rows keeps them from waiting for each other in a circle.
-- A run that is opened again asks what its mission wants by now, and loses a plan that was refused; its stored answers
-- stay, and give that plan again where the question is still the same.
with given as (
    select *
    from unnest(%(run_ids)s::uuid[], %(iteration_ids)s::uuid[], %(users)s::text[], %(missions)s::text[],
                %(agents)s::text[], %(due)s::timestamptz[])
         as g (run_id, iteration_id, user_id, mission_id, agent_id, due_at)
), fresh as (
    insert into mana_ai.mission_runs (run_id, iteration_id, user_id, mission_id, agent_id, due_at)
    select run_id, iteration_id, user_id, mission_id, agent_id, due_at
    from given
    order by user_id, mission_id
    on conflict do nothing
    returning run_id, user_id
), again as (
    update mana_ai.mission_runs r
    set state = 'due', decision = null, reason = null, attempts = 0, next_attempt_at = now(), agent_id = given.agent_id,
        brief = null, plan = null, planned_at = null, refused_writes = 0, updated_at = now()
    from given
    where r.run_id = given.run_id and r.state in ('failed', 'cancelled') and r.next_attempt_at <= now()
    returning r.run_id, r.user_id
)
select run_id, user_id,
       pg_logical_emit_message(true, 'mission.due', json_build_object('run_id', run_id, 'user_id', user_id)::text)
from (select * from fresh union all select * from again) opened
