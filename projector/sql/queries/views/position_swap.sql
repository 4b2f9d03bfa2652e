-- Compare-and-swap of the positions of one batch: all of them, or an error. Whatever else the transaction writes comes
-- after it: of two workers that own a partition, the second waits here for the first, and then finds that it has lost.
with moved as (
    update mana_ai.stream_positions as position
    set next_offset = swap.next_offset, reached = swap.reached, updated_at = now()
    from unnest(
        %(topics)b::text[], %(partitions)b::int[], %(expected)b::bigint[], %(revisions)b::bigint[],
        %(next_offsets)b::bigint[], %(reached)b::text[]
    ) as swap (topic, partition, expected, revision, next_offset, reached)
    where position.view = %(view)s and position.cluster = %(cluster)s
      and position.topic = swap.topic and position.partition = swap.partition
      and position.next_offset = swap.expected and position.revision = swap.revision
      and position.fold_version = %(fold_version)s
    returning 1
), swapped as (
    select mana_ai.require_moved(count(*), %(wanted)s) as held from moved
)
