select topic, partition, next_offset
from mana_ai.stream_positions
where view = %(view)s and cluster = %(cluster)s
