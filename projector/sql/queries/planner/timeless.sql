-- A page of active missions with a cron expression that nobody has given a time: devices leave it empty.
select user_id, mission_id, record -> 'cadence'
from mana_ai.mission_snapshots
where status = 'active' and complete and not deleted and next_run_at is null
  and (user_id, mission_id) > (%(after_user)s, %(after_mission)s)
  and record -> 'cadence' ->> 'kind' = 'cron' and record ->> 'nextRunAt' is null
order by user_id, mission_id
limit %(limit)s
