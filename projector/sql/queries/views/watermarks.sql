-- The latest watermarks of the present source, newest first.
select generation, lsn::text, (extract(epoch from committed_at) * 1000000)::bigint, ends
from mana_ai.cdc_watermarks
where generation = (select max(generation) from mana_ai.cdc_sources)
order by id desc
limit %(limit)s
