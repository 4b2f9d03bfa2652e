-- Announces again what waits longer than an announcement takes: runs without a worker, plans without a row.
with late as (
    (select run_id, user_id, 'mission.due' as topic
     from mana_ai.mission_runs
     where state in ('due', 'held') and next_attempt_at <= now() - make_interval(secs => %(late_s)s)
     order by next_attempt_at
     limit %(limit)s)
    union all
    (select run_id, user_id, 'mission.due'
     from mana_ai.mission_runs
     where state = 'running' and lease_until < now()
     order by lease_until
     limit %(limit)s)
    union all
    (select run_id, user_id, 'mission.iterations'
     from mana_ai.mission_runs
     where state = 'planned' and next_attempt_at <= now() - make_interval(secs => %(late_s)s)
     order by next_attempt_at
     limit %(limit)s)
)
select topic,
       pg_logical_emit_message(true, topic, json_build_object('run_id', run_id, 'user_id', user_id)::text)
from late
