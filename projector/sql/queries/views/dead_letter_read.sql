-- Letters as the messages that they were. Those stored before keys were kept have the user in its place, which is the
-- key as text unless some of it could not be read as text; for those and for a message without a key there is none.
select id, reason, topic, partition, "offset",
       coalesce(key, case when position(U&'\FFFD' in user_id) = 0 then convert_to(user_id, 'UTF8') end),
       value, coalesce(timestamp_ms, (extract(epoch from created_at) * 1000)::bigint), headers
from mana_ai.dead_letters
where id = any (%(ids)s)
order by id
