insert into mana_ai.stream_positions (view, cluster, topic, partition, next_offset, fold_version)
select %(view)s, %(cluster)s, wanted.topic, wanted.partition, wanted.next_offset, %(fold_version)s
from unnest(%(topics)s::text[], %(partitions)s::int[], %(next_offsets)s::bigint[])
    as wanted (topic, partition, next_offset)
