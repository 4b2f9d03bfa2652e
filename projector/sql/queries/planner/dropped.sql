-- The iterations of ours that a mission's newest array lacks, as all its rows together have them.
select r.run_id, r.restores, i.value -> 'iteration' as iteration
from mana_ai.mission_iterations m
cross join lateral jsonb_array_elements(m.record -> 'iterations') as i
join mana_ai.mission_runs r
  on r.user_id = m.user_id and r.mission_id = m.mission_id
  and r.iteration_id::text = i.value -> 'iteration' ->> 'id'
where m.user_id = %(user_id)s and m.mission_id = %(mission_id)s
  and not m.deleted
  and not (i.value ->> 'shown')::boolean
  and i.value -> 'iteration' -> 'archivedAt' is null
  and r.state = 'written'
  and r.restores < %(most)s
  and coalesce(r.restored_at, r.written_at) < now() - make_interval(secs => %(rest_s)s)
order by r.run_id
for update of r
