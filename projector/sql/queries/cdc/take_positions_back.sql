-- Where a topic ends below what a view has applied of it, what is published again there would pass the view by. It may be
-- another topic of that name, whose records the position counts from here on.
update mana_ai.stream_positions p
set next_offset = e.next_offset, reached = null, topic_id = null, revision = p.revision + 1, updated_at = now()
from (
    select topic.key as topic, (offsets.n - 1)::int as partition, offsets.next_offset::text::bigint as next_offset
    from jsonb_each(%s::jsonb) as topic (key, value)
    cross join lateral jsonb_array_elements(topic.value) with ordinality as offsets (next_offset, n)
) e
where p.topic = e.topic and p.partition = e.partition and p.next_offset > e.next_offset
