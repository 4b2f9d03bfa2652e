-- The view's positions in these topics, on the cluster asked for; without one, on that where it moved last.
select position.cluster, position.topic, position.partition, position.next_offset
from mana_ai.stream_positions as position
where position.view = %(view)s and position.topic = any (%(topics)s)
  and position.cluster = coalesce(%(cluster)s::text, (
      select last.cluster from mana_ai.stream_positions as last
      where last.view = %(view)s order by last.updated_at desc limit 1))
