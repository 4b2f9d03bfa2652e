-- One at a time per user and agent, until the transaction ends. In order, so that two who lock several do not wait for
-- each other in a circle.
select pg_advisory_xact_lock(key)
from (
    select distinct hashtextextended(user_id || chr(31) || agent_id, 1) as key
    from unnest(%(users)s::text[], %(agents)s::text[]) as asked (user_id, agent_id)
    order by key
) agents
