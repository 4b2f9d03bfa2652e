-- What a run is about, as the views show it now, and when somebody last wrote to it.
-- Nulls where there is no such mission or agent.
select m.record, m.complete and not m.deleted, m.next_run_at, a.record, a.shown,
       greatest(m.last_applied_at, a.last_applied_at)
from (select %(user_id)s::text as user_id, %(mission_id)s::text as mission_id) wanted
left join mana_ai.mission_snapshots m using (user_id, mission_id)
-- The limit keeps this a lookup of its own: a join would read every agent of the user, for want of a way to hand the
-- id through what stands before the two generations.
left join lateral (
    select record, complete and not deleted as shown, last_applied_at
    from mana_ai.agent_snapshots
    where user_id = wanted.user_id and agent_id = coalesce(nullif(m.agent_id, ''), %(default_agent)s)
    limit 1
) a on true
