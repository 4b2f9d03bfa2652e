-- Held runs whose mission or agent is not as it was when they were claimed are looked at again now, not when their time
-- comes. An iteration that we put back is no such change, while what others wrote is as it was.
update mana_ai.mission_runs r
set next_attempt_at = now(), updated_at = now()
where r.state = 'held'
  and r.next_attempt_at > now()
  and ((select a.version from mana_ai.agent_snapshots a where a.user_id = r.user_id and a.agent_id = r.agent_id)
           is distinct from r.seen_agent
       or not coalesce(
           (select m.version is not distinct from r.seen_mission
                   or (m.changed_at <> m.last_applied_at and m.changed_at is not distinct from r.seen_changed_at)
            from (select version, last_applied_at, ({changed_at}) as changed_at
                  from mana_ai.mission_snapshots m
                  where m.user_id = r.user_id and m.mission_id = r.mission_id) m),
           r.seen_mission is null))
