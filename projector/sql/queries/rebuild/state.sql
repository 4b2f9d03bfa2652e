-- Which generation of each view serves, what the spare one holds, and whether somebody works on it now.
select generation.view, generation.serving, generation.promoted_at, coalesce(rebuild.state, 'empty') as state,
       rebuild.source, rebuild.events, rebuild.total, rebuild.changes, rebuild.seconds, rebuild.error,
       rebuild.started_at, rebuild.updated_at,
       exists (select from pg_locks
               where locktype = 'advisory' and objsubid = 2 and database = (
                   select oid from pg_database where datname = current_database())
                 and classid::bigint = hashtext('projector rebuild')::bigint & 4294967295
                 and objid::bigint = hashtext(generation.view)::bigint & 4294967295) as at_work
from mana_ai.view_generations as generation
left join mana_ai.view_rebuilds as rebuild using (view)
where %(views)s::text[] is null or generation.view = any (%(views)s)
order by generation.view
