-- The fold of the iterations of missions by SQL, one row for each mission: what `verify` holds against their view.
-- It follows the written rules, not the engine's code; only the log's own columns go in.
-- What belongs together is brought together by grouping: a join of parts without statistics goes through all pairs.
with admitted as materialized (
    -- what the engine would not call a dead letter
    select dense_rank() over (order by user_id, app_id, table_name, record_id) as mission,
           user_id, app_id, table_name, record_id, op, created_at, id,
           coalesce(jsonb_typeof(data) = 'object', false) as has_data,
           coalesce(jsonb_typeof(data -> 'deletedAt') = 'string' and data ->> 'deletedAt' <> '', false) as names_time,
           case when jsonb_typeof(data) = 'object' then data else '{}' end as data,
           case when jsonb_typeof(field_meta) = 'object' then field_meta else '{}' end as field_meta,
           case when op = 'insert' then
               coalesce(mana_ai.fold_stamp(data -> 'updatedAt'), mana_ai.fold_stamp(data -> 'createdAt'))
           end as row_instant,
           array[to_char(created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), id::text] collate "C" as moment,
           -- a device makes a record of any insert, and of an update with a stamp
           case op
               when 'insert' then true
               when 'update' then jsonb_typeof(data) = 'object' and data ?| array(
                   select jsonb_object_keys(case when jsonb_typeof(field_meta) = 'object' then field_meta else '{}' end))
           end as makes
    from chosen
    where user_id <> ''
      and schema_version <= 1
      and (data is null or jsonb_typeof(data) in ('object', 'null'))
),
histories as materialized (
    select *, coalesce(entombed > greatest(inserted, made, '{}'), false) as tombstone
    from (
        select mission, user_id, app_id, table_name, record_id,
               bool_or(op = 'insert' and has_data) as complete,
               min(moment) filter (where makes) as made,
               max(moment) filter (where op = 'insert') as inserted,
               max(moment) filter (where op = 'delete' and not names_time) as entombed
        from admitted
        group by mission, user_id, app_id, table_name, record_id
    ) as grouped
),
-- A device passes over a delete of a record that is not made yet; it counts while nothing makes the record.
deletes as materialized (
    select mission, d.created_at, d.id, d.data -> 'deletedAt' as value, h.made is null as early
    from admitted d
    join histories h using (mission)
    where d.op = 'delete' and d.names_time and (h.made is null or d.moment > h.made)
),
writes as materialized (
    -- place 1 is the one that wins its path, among the early deletes or the other writes
    select *, row_number() over (
               partition by mission, path, early order by instant desc nulls last, created_at desc, id desc) as place
    from (
        select a.mission, a.created_at, a.id,
               case when a.op = 'update' then mana_ai.fold_path(field.key) else array[field.key] end as path,
               field.value,
               coalesce(mana_ai.fold_stamp(a.field_meta -> field.key), a.row_instant) as instant,
               false as early
        from admitted a
        cross join lateral jsonb_each(a.data) as field
        where a.op in ('insert', 'update')
          and (starts_with(field.key, 'iterations') or starts_with(field.key, 'deletedAt'))
        union all
        select mission, created_at, id, array['deletedAt'], value, mana_ai.fold_stamp(value), early
        from deletes
    ) as every
    where path = array['iterations'] or path[1] = 'deletedAt'
),
iterations as materialized (
    -- the objects among the last 5000 elements of an array; of repeated ids the last
    select *, dense_rank() over (partition by mission order by iteration collate "C") as rank
    from (select distinct on (w.id, e.element ->> 'id')
           w.mission, w.created_at, w.id, w.instant, w.place = 1 as newest, e.element ->> 'id' as iteration, e.element
    from writes w
    cross join lateral jsonb_array_elements(case when jsonb_typeof(w.value) = 'array' then w.value else '[]' end)
        with ordinality as e (element, nr)
    where w.path = array['iterations']
      and e.nr > jsonb_array_length(w.value) - 5000
      and jsonb_typeof(e.element -> 'id') = 'string' and e.element ->> 'id' <> ''
    order by w.id, e.element ->> 'id', e.nr desc) as every
),
-- A repetition teaches nothing: of equal elements the first row's is read.
told as materialized (
    select distinct on (mission, iteration, element) *
    from iterations
    where rank <= 5000
    order by mission, iteration, element, created_at, id
),
steps as materialized (
    select distinct on (i.id, i.iteration, s.element ->> 'id')
           i.mission, i.created_at, i.id, i.instant, i.iteration, s.element ->> 'id' as step, s.element, s.nr
    from told i
    cross join lateral jsonb_array_elements(
        case when jsonb_typeof(i.element -> 'plan') = 'array' then i.element -> 'plan' else '[]' end)
        with ordinality as s (element, nr)
    where s.nr > jsonb_array_length(i.element -> 'plan') - 200
      and jsonb_typeof(s.element -> 'id') = 'string' and s.element ->> 'id' <> ''
    order by i.id, i.iteration, s.element ->> 'id', s.nr desc
),
-- An iteration is the item without a step. The names that come first are kept.
items as materialized (
    select mission, created_at, id, instant, newest, iteration, step, element,
           case when step = '' then 'overallStatus' else 'status' end as status_name,
           case when step = '' then 'archivedAt' else 'proposalId' end as once_name
    from (
        select mission, created_at, id, instant, newest, iteration, '' as step, element, rank from told
        union all
        select mission, created_at, id, instant, false, iteration, step, element,
               dense_rank() over (partition by mission, iteration order by step collate "C")
        from steps
    ) as every
    where rank <= case when step = '' then 5000 else 200 end
),
carried as materialized (
    select i.mission, i.iteration, i.step, i.created_at, i.id, i.instant, field.key as name, field.value
    from items i
    cross join lateral jsonb_each(i.element) as field
    where field.key not in ('id', i.status_name, i.once_name)
      and (i.step <> '' or field.key not in ('plan', 'currentPhase', 'phaseStartedAt', 'phaseDetail'))
      and (i.step <> '' or field.key <> 'userFeedback' or field.value <> '""')
    union all
    -- of a plan, which steps there are and in what order
    select mission, iteration, '', created_at, id, instant, 'plan', jsonb_agg(step order by nr) - ''
    from (
        select mission, iteration, created_at, id, instant, step, nr from steps
        union all
        select mission, iteration, created_at, id, instant, '', 0 from items
        where step = '' and jsonb_typeof(element -> 'plan') = 'array'
    ) as every
    group by mission, iteration, created_at, id, instant
),
-- A value counts from the row that brought it first.
origins as materialized (
    select distinct on (mission, iteration, step, name, value) *
    from carried
    order by mission, iteration, step, name, value, created_at, id
),
kept as materialized (
    select *,
           dense_rank() over (partition by mission, iteration, step order by name collate "C") as name_nr,
           row_number() over (partition by mission, iteration, step, name order by value::text collate "C") as value_nr
    from origins
),
fields as materialized (
    select distinct on (mission, iteration, step, name) *
    from kept
    where name_nr <= 64 and value_nr <= 64
    order by mission, iteration, step, name, instant desc nulls last, created_at desc, id desc
),
statuses as materialized (
    select distinct on (mission, iteration, step)
           mission, iteration, step, created_at, id, status_name as name, element -> status_name as value
    from items
    where jsonb_typeof(element -> status_name) = 'string' and element ->> status_name <> ''
    order by mission, iteration, step,
             coalesce(array_position(
                 case when step = '' then array['running', 'awaiting-review', 'failed', 'rejected', 'approved']
                      else array['planned', 'staged', 'skipped', 'failed', 'rejected', 'approved'] end,
                 element ->> status_name), 0) desc,
             element ->> status_name collate "C" desc, created_at, id
),
texts_that_stay as materialized (
    select distinct on (mission, iteration, step)
           mission, iteration, step, created_at, id, once_name as name, element -> once_name as value
    from items
    where jsonb_typeof(element -> once_name) = 'string' and element ->> once_name <> ''
    order by mission, iteration, step, created_at, id
),
births as materialized (
    select distinct on (mission, iteration, step)
           mission, iteration, step, created_at, id, to_jsonb(case when step = '' then iteration else step end) as value
    from items
    order by mission, iteration, step, created_at, id
),
phases as materialized (
    select distinct on (i.mission, i.iteration) i.mission, i.iteration, i.created_at, i.id, f.value
    from iterations i
    cross join lateral (
        select jsonb_object_agg(key, value) as value from jsonb_each(i.element)
        where key in ('currentPhase', 'phaseStartedAt', 'phaseDetail')
    ) as f
    where i.rank <= 5000 and f.value is not null
    order by i.mission, i.iteration, i.instant desc nulls last, i.created_at desc, i.id desc
),
facts as (
    select *, max(value #>> '{}') filter (where kind = 'status') over (partition by mission, iteration, step) as status
    from (
        select 'field' as kind, mission, iteration, step, created_at, id, name, value from fields
        union all select 'field', mission, iteration, step, created_at, id, name, value from texts_that_stay
        union all select 'status', mission, iteration, step, created_at, id, name, value from statuses
        union all select 'birth', mission, iteration, step, created_at, id, 'id', value from births
        union all select 'phase', mission, iteration, '', created_at, id, '', value from phases
        union all select distinct 'shown', mission, iteration, '', null::timestamptz, null::uuid, '', 'true'::jsonb
        from iterations where newest and rank <= 5000
    ) as every
),
objects as (
    select mission, iteration, step,
           jsonb_object_agg(name, value) filter (where name <> '' and visible)
               || coalesce(jsonb_object_agg('phase', value) filter (where kind = 'phase' and visible) -> 'phase', '{}')
               as object,
           bool_or(kind = 'shown') as shown,
           min(id::text) filter (where kind = 'birth') as brought_by,
           max(array[to_char(created_at at time zone 'UTC', 'YYYYMMDDHH24MISSUS'), id::text] collate "C")
               filter (where kind in ('field', 'status', 'birth') and visible) as last
    from (
        select *, step <> '' or case
                   when kind = 'phase' then
                       coalesce(status not in ('awaiting-review', 'failed', 'rejected', 'approved'), true)
                   when name = 'cancelRequested' then status is not distinct from 'running'
                   when name = 'errorDetails' then status is not distinct from 'failed'
                   else true end as visible
        from facts
    ) as every
    group by mission, iteration, step
),
trees as materialized (
    select mission, iteration, jsonb_object_agg(step, object) as objects, jsonb_object_agg(step, last) as lasts,
           bool_or(shown) as shown, max(brought_by) filter (where step = '') as brought_by
    from objects
    group by mission, iteration
),
lists as materialized (
    select t.mission,
           jsonb_agg(
               jsonb_build_object(
                   'iteration', t.objects -> ''
                       || case when t.objects -> '' ? 'plan' then jsonb_build_object('plan', p.plan) else '{}' end,
                   'shown', t.shown,
                   'broughtBy', t.brought_by,
                   'changedBy', (greatest(
                       array[t.lasts -> '' ->> 0, t.lasts -> '' ->> 1] collate "C", p.last collate "C"))[2])
               order by case when jsonb_typeof(t.objects -> '' -> 'startedAt') = 'string'
                             then mana_ai.fold_instant(t.objects -> '' ->> 'startedAt') end nulls first,
                        t.iteration collate "C") as iterations
    from trees t
    cross join lateral (
        select coalesce(jsonb_agg(t.objects -> step order by nr), '[]') as plan,
               max(array[t.lasts -> step ->> 0, t.lasts -> step ->> 1] collate "C") as last
        from jsonb_array_elements_text(coalesce(t.objects -> '' -> 'plan', '[]')) with ordinality as o (step, nr)
        where t.objects ? step
    ) as p
    group by t.mission
),
newest_ids as materialized (
    select mission, jsonb_agg(iteration order by iteration collate "C") as ids from iterations where newest group by mission
),
kept_writes as materialized (
    select mission,
           jsonb_agg(
               jsonb_build_array(
                   to_jsonb(path), value, instant, (extract(epoch from created_at) * 1000000)::bigint, id::text)
               order by path collate "C") filter (where not early) as writes,
           coalesce((array_agg(jsonb_typeof(value) = 'string' and value <> '""'
               order by instant desc nulls last, created_at desc, id desc)
               filter (where path = array['deletedAt']))[1], false) as deleted
    from (
        select w.mission, w.path, w.early, w.instant, w.created_at, w.id,
               case when w.path = array['iterations'] then
                        case when jsonb_typeof(w.value) = 'array' then coalesce(n.ids, '[]') else 'null' end
                    else w.value end as value
        from writes w
        left join newest_ids n on n.mission = w.mission
        where w.place = 1
    ) as every
    group by mission
)
select h.user_id, h.app_id, h.table_name, h.record_id,
       jsonb_build_object('iterations', coalesce(l.iterations, '[]')) as record,
       h.tombstone or coalesce(k.deleted, false) as deleted,
       h.complete,
       coalesce(k.writes, '[]') as writes
from histories h
left join lists l using (mission)
left join kept_writes k using (mission)
