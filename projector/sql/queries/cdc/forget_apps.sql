-- An app that is left out now misses rows from here on: no fill goes on with it, and when it comes back it is filled anew.
with brought (generation, apps) as (
    values (%s::int, %s::text[])
), forgotten as (
    delete from mana_ai.cdc_apps a using brought b where a.generation = b.generation and a.app_id <> all (b.apps)
)
update mana_ai.cdc_fills f
set apps = array(select app_id from unnest(f.apps) as app_id where app_id = any (b.apps))
from brought b
where f.generation = b.generation and f.finished_at is null and not f.apps <@ b.apps
