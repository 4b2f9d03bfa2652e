select next_offset, fold_version
from mana_ai.stream_positions
where view = %(view)s and cluster = %(cluster)s and topic = %(topic)s and partition = %(partition)s
