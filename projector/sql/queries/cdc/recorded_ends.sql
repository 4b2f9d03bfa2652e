-- What was written down about topics: rows (topic, null, partitions, by whom) and (topic, partition, next offset, by whom).
with newest as (
    select 'the newest watermark' as source, ends from mana_ai.cdc_watermarks order by id desc limit 1
),
marked as (
    select newest.source, topic.key as topic, topic.value as ends
    from newest cross join lateral jsonb_each(newest.ends) as topic
),
positions as (
    select 'a position of view ' || view as source, topic, partition, next_offset
    from mana_ai.stream_positions
    where cluster = %s
)
select topic, null::int, jsonb_array_length(ends)::bigint, source
from marked
union all
select marked.topic, (reached.number - 1)::int, reached.next_offset::bigint, marked.source
from marked
cross join lateral jsonb_array_elements_text(marked.ends) with ordinality as reached (next_offset, number)
union all
select topic, partition, next_offset, source from positions
order by 1, 2 nulls first, 4
