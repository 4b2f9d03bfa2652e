-- Written down before it is submitted, while the lease holds. The run stays locked until then, as when it stores a step:
-- an erasure that comes meanwhile finds the job.
with held as (
    update mana_ai.mission_runs
    set research_at = now(), updated_at = now()
    where run_id = %(run_id)s and lease_owner = %(owner)s and state = 'running'
    returning run_id, user_id, mission_id
)
insert into mana_ai.mission_research_jobs as known (user_id, mission_id, run_id, provider_id, query)
select user_id, mission_id, run_id, %(provider)s, %(query)s
from held
on conflict (user_id, mission_id) do update
set run_id = excluded.run_id, provider_id = excluded.provider_id, query = excluded.query, state = 'intended',
    task_id = null, polls = 0, failures = 0, answer = null, reason = null,
    intended_at = now(), submitted_at = null, last_polled_at = null, finished_at = null
