-- Whether a place is free, and that one became free, is told one at a time per user, until the transaction ends: asked for
-- before any lock on a run, and in a statement of its own, so that the next one sees what others told before. The user's
-- and not the agent's, because a run may pass to another agent and never to another user. In order, so that two who lock
-- several do not wait for each other in a circle.
select pg_advisory_xact_lock(key)
from (
    select distinct hashtextextended(user_id, 1) as key
    from unnest(%(users)s::text[]) as asked (user_id)
    order by key
) users
