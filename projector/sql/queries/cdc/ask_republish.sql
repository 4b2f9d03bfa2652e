-- An app without a row here is one that the stream has not brought so far. Null before its first start.
with newest as (
    select max(generation) as generation from mana_ai.cdc_sources where slot_ready
), asked as (
    delete from mana_ai.cdc_apps a using newest n
    where a.generation = n.generation and a.app_id = any (%(apps)s)
)
select generation from newest
