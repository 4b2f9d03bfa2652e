-- Compare-and-swap of the positions of one batch. It comes first in its transaction: of two workers that own
-- a partition, the second waits here for the first, and then finds that it has lost.
update mana_ai.stream_positions as position
set next_offset = swap.next_offset, updated_at = now()
from unnest(
    %(topics)s::text[], %(partitions)s::int[], %(expected)s::bigint[], %(revisions)s::bigint[], %(next_offsets)s::bigint[]
) as swap (topic, partition, expected, revision, next_offset)
where position.view = %(view)s and position.cluster = %(cluster)s
  and position.topic = swap.topic and position.partition = swap.partition
  and position.next_offset = swap.expected and position.revision = swap.revision
  and position.fold_version = %(fold_version)s
