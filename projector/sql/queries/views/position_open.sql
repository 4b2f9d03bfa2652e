-- Opens the positions of these partitions at their beginning, unless they are known.
insert into mana_ai.stream_positions (view, cluster, topic, partition, next_offset, fold_version)
select %(view)s, %(cluster)s, wanted.topic, wanted.partition, 0, %(fold_version)s
from unnest(%(topics)s::text[], %(partitions)s::int[]) as wanted (topic, partition)
on conflict do nothing
