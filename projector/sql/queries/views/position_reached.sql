-- Of the offsets asked for, those that the view has not applied yet.
select wanted.topic, wanted.partition, wanted.next_offset, max(position.next_offset)
from unnest(%(topics)s::text[], %(partitions)s::int[], %(ends)s::bigint[]) as wanted (topic, partition, next_offset)
left join mana_ai.stream_positions as position
    on position.view = %(view)s and position.topic = wanted.topic and position.partition = wanted.partition
group by wanted.topic, wanted.partition, wanted.next_offset
having coalesce(max(position.next_offset), 0) < wanted.next_offset
