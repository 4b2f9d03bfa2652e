-- Positions take over the ids of their topics where none is known, as after the change stream took them back, and where
-- nothing of the topic was applied.
update mana_ai.stream_positions as position
set topic_id = wanted.topic_id
from unnest(%(topics)s::text[], %(partitions)s::int[], %(topic_ids)s::uuid[]) as wanted (topic, partition, topic_id)
where position.view = %(view)s and position.cluster = %(cluster)s
  and position.topic = wanted.topic and position.partition = wanted.partition
  and position.topic_id is distinct from wanted.topic_id
  and (position.topic_id is null or position.next_offset = 0)
