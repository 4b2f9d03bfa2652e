-- What a run is about, as the views show it now. Nulls where there is no such mission or agent.
select m.record, m.complete and not m.deleted, m.next_run_at, a.record, a.complete and not a.deleted
from (select %(user_id)s::text as user_id, %(mission_id)s::text as mission_id) wanted
left join mana_ai.mission_snapshots m using (user_id, mission_id)
left join mana_ai.agent_snapshots a
    on a.user_id = wanted.user_id
   and a.agent_id = coalesce(nullif(m.agent_id, ''), %(default_agent)s)
