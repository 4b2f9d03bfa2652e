-- Makes a run claimable at once, or a plan writable, and announces it; says what the run was before and what it is now.
-- Its question and its stored steps stay: only what is missing is asked for, and paid.
with before as (
    select r.run_id, r.state, r.lease_until < now() as lease_expired,
           (select o.run_id
            from mana_ai.mission_runs o
            where o.user_id = r.user_id and o.mission_id = r.mission_id and o.run_id <> r.run_id
              and o.state in ('due', 'running', 'planned', 'held')) as other
    from mana_ai.mission_runs r
    where r.run_id = %(run_id)s
    for update of r
), due as (
    update mana_ai.mission_runs r
    set state = 'due', decision = 'retried-by-hand', reason = %(reason)s, attempts = 0, next_attempt_at = now(),
        plan = null, planned_at = null, refused_writes = 0, updated_at = now()
    from before
    where r.run_id = before.run_id and before.state in ('due', 'held', 'failed', 'cancelled') and before.other is null
    returning r.run_id, r.user_id, 'mission.due' as topic
), planned as (
    update mana_ai.mission_runs r
    set next_attempt_at = now(), refused_writes = 0, updated_at = now()
    from before
    where r.run_id = before.run_id and before.state = 'planned'
    returning r.run_id, r.user_id, 'mission.iterations'
), announced as (
    select pg_logical_emit_message(true, topic, json_build_object('run_id', run_id, 'user_id', user_id)::text)
    from (select * from due union all select * from planned) changed
)
select before.state, before.lease_expired, before.other, (select count(*) from announced)
from before
