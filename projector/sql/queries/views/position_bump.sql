-- For a writer beside the engine, first in its transaction: the engine's next batch waits here, finds another revision,
-- and drops what it remembers. Without partitions: every one of the view.
update mana_ai.stream_positions as position
set revision = position.revision + 1
where position.view = %(view)s and position.cluster = %(cluster)s
  and (%(topics)s::text[] is null
       or (position.topic, position.partition) in (select * from unnest(%(topics)s::text[], %(partitions)s::int[])))
returning position.topic, position.partition, position.next_offset
