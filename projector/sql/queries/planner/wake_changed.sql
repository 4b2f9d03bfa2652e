-- Held runs whose agent or mission has changed since are looked at again now, not when their time comes.
update mana_ai.mission_runs r
set next_attempt_at = now(), updated_at = now()
where r.state = 'held'
  and r.next_attempt_at > now()
  and (exists (select from mana_ai.agent_snapshots a
               where a.user_id = r.user_id and a.agent_id = r.agent_id and a.last_applied_at > r.updated_at)
       or exists (select from mana_ai.mission_snapshots m
                  where m.user_id = r.user_id and m.mission_id = r.mission_id and m.last_applied_at > r.updated_at
                    and ({changed_at}) > r.updated_at))
