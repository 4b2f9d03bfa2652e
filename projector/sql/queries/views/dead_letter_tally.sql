select view, reason, count(*)
from mana_ai.dead_letters
where (%(ids)s::bigint[] is null or id = any (%(ids)s))
  and (%(view)s::text is null or view = %(view)s)
  and (%(user)s::text is null or user_id = %(user)s)
  and (%(reason)s::text is null or reason = %(reason)s)
group by view, reason
order by view, reason
