-- Those of the generation in force: of an older one none goes on. The rate is that of the time since the step began, or
-- since the fill went on.
select reason,
       apps,
       step,
       case step when 'rows' then rows else step_done end,
       total,
       case step when 'rows' then rows - resumed_rows else step_done end,
       extract(epoch from reported_at - coalesce(resumed_at, started_at))::float8,
       extract(epoch from clock_timestamp() - reported_at)::float8
from mana_ai.cdc_fills
where finished_at is null and generation = (select max(generation) from mana_ai.cdc_sources)
order by fill
