select r.state, count(*)
from mana_ai.mission_runs r
where (%(ids)s::uuid[] is null or r.run_id = any (%(ids)s))
  and (%(states)s::text[] is null or r.state = any (%(states)s))
  and (%(user)s::text is null or r.user_id = %(user)s)
  and (%(mission)s::text is null or r.mission_id = %(mission)s)
  and (%(decision)s::text is null or r.decision = %(decision)s)
  and (%(since)s::timestamptz is null or r.created_at >= %(since)s)
group by r.state
order by r.state
