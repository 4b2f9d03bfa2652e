-- Fills are carried out one after the other: the first that is open is at work.
with newest as (
    select max(generation) as generation from mana_ai.cdc_sources
), begun as (
    select not exists (
        select from unnest(%(apps)s::text[]) as wanted (app_id)
        where not exists (select from mana_ai.cdc_apps a join newest using (generation) where a.app_id = wanted.app_id)
    ) as begun
), open as (
    select f.step, case f.step when 'rows' then f.rows else f.step_done end as done, f.total
    from mana_ai.cdc_fills f join newest using (generation)
    where f.finished_at is null and f.apps && %(apps)s::text[]
    order by f.fill
    limit 1
)
select begun.begun, begun.begun and open.step is null, open.step, coalesce(open.done, 0), open.total
from begun left join open on begun.begun
