select 'cdc' as part, reason, count(*)
from mana_ai.cdc_dead_letters
where (%(ids)s::bigint[] is null or id = any (%(ids)s))
  and (%(user)s::text is null or user_id = %(user)s)
  and (%(reason)s::text is null or reason = %(reason)s)
group by reason
order by reason
