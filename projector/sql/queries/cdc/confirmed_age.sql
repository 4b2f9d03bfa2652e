-- The generation in force, and the age in seconds of the newest watermark that the slot has confirmed.
select source.generation,
       (select extract(epoch from clock_timestamp() - mark.committed_at)::float8
        from mana_ai.cdc_watermarks as mark
        where mark.generation = source.generation and mark.lsn <= %s::pg_lsn
        order by mark.id desc
        limit 1)
from mana_ai.cdc_sources as source
order by source.generation desc
limit 1
