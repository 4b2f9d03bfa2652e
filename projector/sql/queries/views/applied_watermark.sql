-- The newest watermark that the view has applied as a whole, and how far that leaves it behind. Every commit below the
-- watermark's LSN is in the view's rows, and none that is missing committed before `committed_at`: so the time since then
-- is all that its readers may miss. Both clocks are the database's.
select pg_wal_lsn_diff(mark.lsn, '0/0')::bigint,
       extract(epoch from clock_timestamp() - mark.committed_at)::float8,
       case when mark.generation = (select max(generation) from mana_ai.cdc_sources)
            then greatest(pg_wal_lsn_diff(pg_current_wal_insert_lsn(), mark.lsn), 0)::bigint
       end
from mana_ai.cdc_watermarks as mark
where not exists (
    select
    from unnest(%(topics)s::text[]) as wanted (topic)
    cross join lateral jsonb_array_elements_text(mark.ends -> wanted.topic) with ordinality as reached (next_offset, number)
    left join mana_ai.stream_positions as position
        on position.view = %(view)s and position.cluster = %(cluster)s
        and position.topic = wanted.topic and position.partition = reached.number - 1
    where reached.next_offset::bigint > coalesce(position.next_offset, 0)
)
order by mark.id desc
limit 1
