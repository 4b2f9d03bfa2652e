-- What a request about the job of a run's mission led to, while the lease holds.
with held as (
    select run_id, user_id, mission_id
    from mana_ai.mission_runs
    where run_id = %(run_id)s and lease_owner = %(owner)s and state = 'running'
    for no key update
), charged as (
    update mana_ai.mission_runs r
    set research_credits = %(credits)s
    from held
    where r.run_id = held.run_id and %(credits)s::float8 is not null
)
update mana_ai.mission_research_jobs j
set state = %(state)s,
    task_id = coalesce(%(task_id)s, j.task_id),
    polls = j.polls + 1,
    failures = case when %(answered)s then 0 else j.failures + 1 end,
    answer = %(answer)s,
    reason = %(reason)s,
    submitted_at = coalesce(j.submitted_at, case when %(task_id)s::text is not null then now() end),
    last_polled_at = now(),
    finished_at = case when %(state)s in ('completed', 'failed') then now() end
from held
where j.user_id = held.user_id and j.mission_id = held.mission_id
