-- The generation that serves, and the positions asked for as far as there are any.
select generation.serving, position.topic, position.partition, position.next_offset, position.revision,
       position.fold_version, position.reached
from mana_ai.view_generations as generation
left join (
    mana_ai.stream_positions as position
    join unnest(%(topics)s::text[], %(partitions)s::int[]) as wanted (topic, partition) using (topic, partition)
) on position.view = %(view)s and position.cluster = %(cluster)s
where generation.view = %(base)s
