-- A page of active missions without a time that should have one: those with a cron expression, which devices store
-- without, and those whose nextRunAt is no time.
select user_id, mission_id, record -> 'cadence', record ->> 'nextRunAt' is not null
from mana_ai.mission_snapshots
where status = 'active' and complete and not deleted and next_run_at is null
  and (user_id, mission_id) > (%(after_user)s, %(after_mission)s)
  and (record ->> 'nextRunAt' is not null or record -> 'cadence' ->> 'kind' = 'cron')
order by user_id, mission_id
limit %(limit)s
