-- Leases runs that nobody works on, fairly over users: each user's n-th run comes before anybody's n+1-th,
-- and runs of a user that are being worked on count as his first ones. What the worker has at hand it keeps, were its
-- lease to run out unnoticed: taken up anew, it would ask again for what is being answered.
-- What the gates will see is noted before they look: a change that comes between the two wakes once too often, not never.
with busy as (
    select user_id, count(*) as runs
    from mana_ai.mission_runs
    where state = 'running' and lease_until >= now()
    group by user_id
), waiting as (
    select run_id, user_id, next_attempt_at as since
    from mana_ai.mission_runs
    where state in ('due', 'held') and next_attempt_at <= now() and run_id <> all(%(at_hand)s)
    union all
    select run_id, user_id, lease_until
    from mana_ai.mission_runs
    where state = 'running' and lease_until < now() and run_id <> all(%(at_hand)s)
), ranked as (
    select run_id, since,
           coalesce(busy.runs, 0) + row_number() over (partition by user_id order by since, run_id) as turn
    from waiting left join busy using (user_id)
), chosen as (
    select run_id, turn, since
    from ranked
    where turn <= %(per_user)s
    order by turn, since, run_id
    limit %(limit)s * 4  -- other workers may hold some of them
), taken as (
    select r.run_id
    from mana_ai.mission_runs r join chosen using (run_id)
    where (r.state in ('due', 'held') and r.next_attempt_at <= now())
       or (r.state = 'running' and r.lease_until < now())
    order by chosen.turn, chosen.since, run_id
    limit %(limit)s
    for update of r skip locked
), seen as (
    select r.run_id, m.version as mission, a.version as agent, m.changed_at
    from taken join mana_ai.mission_runs r using (run_id)
    left join lateral (
        select version, agent_id, ({changed_at}) as changed_at
        from mana_ai.mission_snapshots m
        where user_id = r.user_id and mission_id = r.mission_id
        limit 1
    ) m on true
    left join lateral (
        select version
        from mana_ai.agent_snapshots
        where user_id = r.user_id
          and agent_id = left(coalesce(nullif(m.agent_id, ''), %(default_agent)s), %(longest_agent)s)
        limit 1
    ) a on true
)
update mana_ai.mission_runs r
set state = 'running',
    attempts = r.attempts + 1,
    lease_owner = %(owner)s,
    lease_until = now() + make_interval(secs => %(lease_s)s),
    started_at = coalesce(r.started_at, now()),
    admitted_at = null,
    next_attempt_at = null,
    seen_mission = seen.mission,
    seen_agent = seen.agent,
    seen_changed_at = seen.changed_at,
    updated_at = now()
from seen
where r.run_id = seen.run_id
returning r.run_id, r.user_id, r.mission_id, r.agent_id, r.due_at, r.attempts, r.iteration_id, r.started_at,
          r.created_at, r.brief, r.decision
