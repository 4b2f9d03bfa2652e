-- Deletes some finished runs with their steps, and keeps in mind which due times they had dealt with for good. One that
-- only rests is deleted once it may be taken up again: if its mission is due then, it gets a new run of the same name.
with old as (
    select run_id, user_id, mission_id, due_at, next_attempt_at
    from mana_ai.mission_runs r
    where finished_at < %(before)s and (next_attempt_at is null or next_attempt_at <= now())
      -- A job that a later run of the mission goes on with.
      and not exists (
          select from mana_ai.mission_research_jobs j
          where j.run_id = r.run_id and j.state in ('intended', 'submitted') and j.intended_at > now() - interval '1 day')
    order by finished_at
    limit %(limit)s
    for update skip locked
), remembered as (
    insert into mana_ai.pruned_runs as p (user_id, mission_id, newest_due_at)
    select user_id, mission_id, max(due_at)
    from old
    where next_attempt_at is null
    group by user_id, mission_id
    order by user_id, mission_id  -- two who do this at once do not wait for each other in a circle
    on conflict (user_id, mission_id)
    do update set newest_due_at = greatest(p.newest_due_at, excluded.newest_due_at)
)
delete from mana_ai.mission_runs r
using old
where r.run_id = old.run_id
