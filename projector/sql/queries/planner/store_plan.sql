-- The plan and its announcement, in one. The write-back looks by itself once the announcement is late.
with planned as (
    update mana_ai.mission_runs
    set state = 'planned', plan = %(plan)s, planned_at = now(), decision = %(decision)s, reason = %(reason)s,
        lease_owner = null, lease_until = null, admitted_at = null,
        next_attempt_at = now() + make_interval(secs => %(sweep_after_s)s), updated_at = now()
    where run_id = %(run_id)s and lease_owner = %(owner)s and state = 'running'
    returning run_id, user_id
)
select pg_logical_emit_message(true, 'mission.iterations', json_build_object('run_id', run_id, 'user_id', user_id)::text)
from planned
