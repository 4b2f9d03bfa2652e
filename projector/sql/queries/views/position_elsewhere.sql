-- Positions of this view in these topics that were reached on another cluster.
select cluster, topic
from mana_ai.stream_positions
where view = %(view)s and cluster <> %(cluster)s and topic = any (%(topics)s) and next_offset > 0
limit 1
