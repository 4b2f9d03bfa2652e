select position.topic, position.partition, position.next_offset, position.revision, position.fold_version
from mana_ai.stream_positions as position
join unnest(%(topics)s::text[], %(partitions)s::int[]) as wanted (topic, partition) using (topic, partition)
where position.view = %(view)s and position.cluster = %(cluster)s
