-- For each run, in order: what it may still spend of what it reserved (null unless it is admitted and its lease holds),
-- and what its agent has in hand, has spent in the rolling day, and has reserved, besides that run; and whether effects
-- are stopped.
select mine.reserved_tokens, others.running, spent.tokens, others.reserved, effects.*
from unnest(%(run_ids)s::uuid[], %(users)s::text[], %(agents)s::text[])
     with ordinality as asked (run_id, user_id, agent_id, place)
left join lateral (
    select reserved_tokens
    from mana_ai.mission_runs
    where run_id = asked.run_id and lease_owner = %(owner)s and state = 'running' and admitted_at is not null
    limit 1
) mine on true
cross join lateral (
    select count(*) as running, coalesce(sum(reserved_tokens), 0)::bigint as reserved
    from mana_ai.mission_runs
    where user_id = asked.user_id and agent_id = asked.agent_id and state = 'running'
      and admitted_at is not null and lease_until >= now() and run_id <> asked.run_id
) others
cross join lateral (
    select coalesce(sum(tokens_used), 0)::bigint as tokens
    from mana_ai.token_usage
    where user_id = asked.user_id and agent_id = asked.agent_id and ts > now() - interval '24 hours'
) spent
cross join ({effects}) effects
order by asked.place
