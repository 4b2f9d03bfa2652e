with newest as (
    select max(generation) as generation from mana_ai.cdc_sources
), begun as (
    select not exists (
        select from unnest(%(apps)s::text[]) as wanted (app_id)
        where not exists (select from mana_ai.cdc_apps a join newest using (generation) where a.app_id = wanted.app_id)
    ) as begun
), open as (
    select coalesce(sum(f.rows), 0)::int8 as rows, sum(f.total)::int8 as total, count(*) as fills
    from mana_ai.cdc_fills f join newest using (generation)
    where f.finished_at is null and f.apps && %(apps)s::text[]
)
select begun.begun, begun.begun and open.fills = 0, open.rows, open.total from begun, open
