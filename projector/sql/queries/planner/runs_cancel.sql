-- Ends a run for good, whoever has it in hands; says what it was before and what it is now. A worker finds that its
-- lease is gone, a write-back that there is no plan.
with before as (
    select run_id, state, next_attempt_at is null as for_good
    from mana_ai.mission_runs
    where run_id = %(run_id)s
    for update
), cancelled as (
    update mana_ai.mission_runs r
    set state = 'cancelled', decision = 'cancelled-by-hand', reason = %(reason)s, next_attempt_at = null,
        lease_owner = null, lease_until = null, admitted_at = null, updated_at = now()
    from before
    where r.run_id = before.run_id and before.state <> 'written' and not (before.state = 'cancelled' and before.for_good)
    returning r.run_id, r.user_id, r.agent_id
)
select before.state, before.for_good, cancelled.run_id is not null, cancelled.user_id, cancelled.agent_id
from before left join cancelled using (run_id)
