-- Rows are counted from the beginning of the fill, so the rate is that of all its time, pauses included.
select reason,
       apps,
       rows,
       total,
       extract(epoch from reported_at - started_at)::float8,
       extract(epoch from clock_timestamp() - reported_at)::float8
from mana_ai.cdc_fills
where finished_at is null
order by fill
