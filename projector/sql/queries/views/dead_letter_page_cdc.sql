select id, null as view, null as cluster, topic, null as partition, null as "offset",
       source || ':' || lsn || ':' || ord, user_id, change_id, reason, created_at,
       extract(epoch from clock_timestamp() - created_at)::float8, 1 as attempts, size
from mana_ai.cdc_dead_letters
where id > %(after)s and id <= %(upto)s
  and (%(ids)s::bigint[] is null or id = any (%(ids)s))
  and (%(user)s::text is null or user_id = %(user)s)
  and (%(reason)s::text is null or reason = %(reason)s)
order by id
limit %(limit)s
