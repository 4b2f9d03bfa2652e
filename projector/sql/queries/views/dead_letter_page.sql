-- Without the values: octet_length reads the length alone.
select id, view, cluster, topic, partition, "offset", source_place, user_id, change_id, reason, created_at,
       extract(epoch from clock_timestamp() - created_at)::float8, attempts, coalesce(octet_length(value), 0)
from mana_ai.dead_letters
where id > %(after)s and id <= %(upto)s
  and (%(ids)s::bigint[] is null or id = any (%(ids)s))
  and (%(view)s::text is null or view = %(view)s)
  and (%(user)s::text is null or user_id = %(user)s)
  and (%(reason)s::text is null or reason = %(reason)s)
order by id
limit %(limit)s
