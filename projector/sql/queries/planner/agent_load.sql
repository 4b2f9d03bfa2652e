-- What the agent has in hand, has spent in the rolling day, and has reserved, besides the run that asks.
with others as (
    select count(*) as running, coalesce(sum(reserved_tokens), 0)::bigint as reserved
    from mana_ai.mission_runs
    where user_id = %(user_id)s and agent_id = %(agent_id)s and state = 'running'
      and admitted_at is not null and lease_until >= now() and run_id <> %(run_id)s
)
select others.running,
       (select coalesce(sum(tokens_used), 0)::bigint
        from mana_ai.token_usage
        where user_id = %(user_id)s and agent_id = %(agent_id)s and ts > now() - interval '24 hours'),
       others.reserved
from others
