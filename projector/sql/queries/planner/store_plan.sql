-- Plans and their announcements, in one, and who waited for their runs to end. Asked under `lock_users`. The write-back
-- looks by itself once an announcement is late.
with given as (
    select *
    from jsonb_to_recordset(%(plans)s) as g
         (run_id uuid, plan jsonb, decision text, reason text, sweep_after_s float8)
), mine as (
    {mine}
), planned as (
    update mana_ai.mission_runs r
    set state = 'planned', plan = given.plan, planned_at = now(), decision = given.decision, reason = given.reason,
        lease_owner = null, lease_until = null, admitted_at = null,
        next_attempt_at = now() + make_interval(secs => given.sweep_after_s), updated_at = now()
    from mine join given using (run_id)
    where r.run_id = mine.run_id
    returning r.run_id, r.user_id, r.agent_id
), ended as (
    select user_id, agent_id from planned
), {woken}
select run_id,
       pg_logical_emit_message(true, 'mission.iterations', json_build_object('run_id', run_id, 'user_id', user_id)::text)
from planned
