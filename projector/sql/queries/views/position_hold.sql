-- The view's positions, kept where they are until this transaction ends: its next batch waits at the swap.
select topic, partition, next_offset
from mana_ai.stream_positions
where view = %(view)s and cluster = %(cluster)s
order by topic, partition
for update
