-- Of the offsets asked for, those that the view has not applied yet.
select wanted.topic, wanted.partition, wanted.next_offset, max(position.next_offset)
from unnest(%(topics)s::text[], %(partitions)s::int[], %(ends)s::bigint[], %(topic_ids)s::uuid[])
    as wanted (topic, partition, next_offset, topic_id)
left join mana_ai.stream_positions as position
    on position.view = %(view)s and position.topic = wanted.topic and position.partition = wanted.partition
    -- Where these are named: an offset that was reached in another topic of the name is none in this one.
    and (%(cluster)s::text is null or position.cluster = %(cluster)s)
    and (wanted.topic_id is null or position.topic_id is null or position.topic_id = wanted.topic_id)
group by wanted.topic, wanted.partition, wanted.next_offset
having coalesce(max(position.next_offset), 0) < wanted.next_offset
