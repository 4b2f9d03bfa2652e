-- A page of active missions without a time that should have one: those with a cron expression, which devices store
-- without, and those whose nextRunAt is no time. Asked of the tables that have the column; one of them serves.
(select user_id, mission_id, record -> 'cadence', record ->> 'nextRunAt' is not null
 from mana_ai.mission_snapshots_1
 where (select serving from mana_ai.view_generations where view = 'missions') = 1
   and timeless and (user_id, mission_id) > (%(after_user)s, %(after_mission)s))
union all
(select user_id, mission_id, record -> 'cadence', record ->> 'nextRunAt' is not null
 from mana_ai.mission_snapshots_2
 where (select serving from mana_ai.view_generations where view = 'missions') = 2
   and timeless and (user_id, mission_id) > (%(after_user)s, %(after_mission)s))
order by user_id, mission_id
limit %(limit)s
