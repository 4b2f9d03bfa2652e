-- Missions whose newest array lacks iterations of ours that were not archived. The condition on `record` is that of the
-- partial indexes, word for word.
select m.user_id, m.mission_id
from mana_ai.mission_iterations m
where (m.user_id, m.mission_id) > (%(after_user)s, %(after_mission)s)
  and not m.deleted
  and m.record @?
      '$.iterations[*] ? (@.shown == false && @.iteration.source == "server" && !exists(@.iteration.archivedAt))'
  and exists (
      select from jsonb_array_elements(m.record -> 'iterations') as i
      join mana_ai.mission_runs r
        on r.user_id = m.user_id and r.mission_id = m.mission_id
        and r.iteration_id::text = i.value -> 'iteration' ->> 'id'
      where not (i.value ->> 'shown')::boolean
        and i.value -> 'iteration' -> 'archivedAt' is null
        and r.state = 'written'
        and r.restores < %(most)s
        and coalesce(r.restored_at, r.written_at) < now() - make_interval(secs => %(rest_s)s))
order by m.user_id, m.mission_id
limit %(limit)s
