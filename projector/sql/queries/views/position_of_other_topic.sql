-- Positions that were reached in a topic of the same name that is no more.
select position.topic, position.partition, position.next_offset
from mana_ai.stream_positions as position
join unnest(%(topics)s::text[], %(partitions)s::int[], %(topic_ids)s::uuid[])
    as wanted (topic, partition, topic_id) using (topic, partition)
where position.view = %(view)s and position.cluster = %(cluster)s and position.topic_id <> wanted.topic_id
order by position.topic, position.partition
