-- The fold of the iterations of missions by SQL, one row for each mission: what `verify` holds against their view.
-- It follows the written rules, not the engine's code; only the log's own columns go in.
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
           end as row_instant
    from sync_changes
    where app_id = any (%(apps)s)
      and ((app_id, table_name) in (select * from unnest(%(source_apps)s::text[], %(source_tables)s::text[])))
          = %(named)s
      and (%(users)s::text[] is null or user_id = any (%(users)s))
      and user_id <> ''
      and schema_version <= 1
      and (data is null or jsonb_typeof(data) in ('object', 'null'))
),
writes as materialized (
    select * from (
        select a.mission, a.created_at, a.id,
               case when a.op = 'update' then mana_ai.fold_path(field.key) else array[field.key] end as path,
               field.value,
               coalesce(mana_ai.fold_stamp(a.field_meta -> field.key), a.row_instant) as instant
        from admitted a
        cross join lateral jsonb_each(a.data) as field
        where a.op in ('insert', 'update')
          and (starts_with(field.key, 'iterations') or starts_with(field.key, 'deletedAt'))
        union all
        select mission, created_at, id, array['deletedAt'], data -> 'deletedAt',
               mana_ai.fold_stamp(data -> 'deletedAt')
        from admitted
        where op = 'delete' and names_time
    ) as every
    where path = array['iterations'] or path[1] = 'deletedAt'
),
winners as materialized (
    select distinct on (mission, path) *
    from writes
    order by mission, path, instant desc nulls last, created_at desc, id desc
),
iterations as materialized (
    -- the objects among the last 5000 elements of an array; of repeated ids the last
    select distinct on (w.id, e.element ->> 'id')
           w.mission, w.created_at, w.id, w.instant, e.element ->> 'id' as iteration, e.element
    from writes w
    cross join lateral jsonb_array_elements(case when jsonb_typeof(w.value) = 'array' then w.value else '[]' end)
        with ordinality as e (element, place)
    where w.path = array['iterations']
      and e.place > jsonb_array_length(w.value) - 5000
      and jsonb_typeof(e.element -> 'id') = 'string' and e.element ->> 'id' <> ''
    order by w.id, e.element ->> 'id', e.place desc
),
steps as materialized (
    select distinct on (i.id, i.iteration, s.element ->> 'id')
           i.mission, i.created_at, i.id, i.instant, i.iteration, s.element ->> 'id' as step, s.element, s.place
    from iterations i
    cross join lateral jsonb_array_elements(
        case when jsonb_typeof(i.element -> 'plan') = 'array' then i.element -> 'plan' else '[]' end)
        with ordinality as s (element, place)
    where s.place > jsonb_array_length(i.element -> 'plan') - 200
      and jsonb_typeof(s.element -> 'id') = 'string' and s.element ->> 'id' <> ''
    order by i.id, i.iteration, s.element ->> 'id', s.place desc
),
-- An iteration is the item without a step. The names that come first are kept.
items as materialized (
    select mission, created_at, id, instant, iteration, step, element,
           case when step = '' then 'overallStatus' else 'status' end as status_name,
           case when step = '' then 'archivedAt' else 'proposalId' end as once_name
    from (
        select mission, created_at, id, instant, iteration, '' as step, element,
               dense_rank() over (partition by mission order by iteration collate "C") as nr
        from iterations
        union all
        select mission, created_at, id, instant, iteration, step, element,
               dense_rank() over (partition by mission, iteration order by step collate "C")
        from steps
    ) as every
    where nr <= case when step = '' then 5000 else 200 end
),
statuses as materialized (
    select distinct on (mission, iteration, step)
           mission, iteration, step, created_at, id, status_name as name, element -> status_name as value,
           element ->> status_name as status
    from items
    where jsonb_typeof(element -> status_name) = 'string' and element ->> status_name <> ''
    order by mission, iteration, step,
             coalesce(array_position(
                 case when step = '' then array['running', 'awaiting-review', 'failed', 'rejected', 'approved']
                      else array['planned', 'staged', 'skipped', 'failed', 'rejected', 'approved'] end,
                 element ->> status_name), 0) desc,
             element ->> status_name collate "C" desc, created_at, id
),
texts_that_stay as (
    select distinct on (mission, iteration, step)
           mission, iteration, step, created_at, id, once_name as name, element -> once_name as value
    from items
    where jsonb_typeof(element -> once_name) = 'string' and element ->> once_name <> ''
    order by mission, iteration, step, created_at, id
),
phases as (
    select distinct on (i.mission, i.iteration)
           i.mission, i.iteration, f.fields
    from items i
    cross join lateral (
        select jsonb_object_agg(key, value) as fields from jsonb_each(i.element)
        where key in ('currentPhase', 'phaseStartedAt', 'phaseDetail')
    ) as f
    where i.step = '' and f.fields is not null
    order by i.mission, i.iteration, i.instant desc nulls last, i.created_at desc, i.id desc
),
carried as (
    select i.mission, i.iteration, i.step, i.created_at, i.id, i.instant, field.key as name, field.value
    from items i
    cross join lateral jsonb_each(i.element) as field
    where field.key not in ('id', i.status_name, i.once_name)
      and (i.step <> '' or field.key not in ('plan', 'currentPhase', 'phaseStartedAt', 'phaseDetail'))
      and (i.step <> '' or field.key <> 'userFeedback' or field.value <> '""')
    union all
    -- of a plan, which steps there are and in what order
    select i.mission, i.iteration, '', i.created_at, i.id, i.instant, 'plan',
           coalesce(jsonb_agg(s.step order by s.place) filter (where s.step is not null), '[]')
    from items i
    left join steps s on s.id = i.id and s.iteration = i.iteration
    where i.step = '' and jsonb_typeof(i.element -> 'plan') = 'array'
    group by i.mission, i.iteration, i.created_at, i.id, i.instant
),
-- A value counts from the row that brought it first.
origins as (
    select distinct on (mission, iteration, step, name, value) *
    from carried
    order by mission, iteration, step, name, value, created_at, id
),
kept as (
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
shown as materialized (
    select f.mission, f.iteration, f.step, f.created_at, f.id, f.name, f.value
    from fields f
    left join statuses s using (mission, iteration, step)
    where f.step <> ''
       or case f.name when 'cancelRequested' then s.status is not distinct from 'running'
                      when 'errorDetails' then s.status is not distinct from 'failed'
                      else true end
    union all
    select mission, iteration, step, created_at, id, name, value from texts_that_stay
    union all
    select mission, iteration, step, created_at, id, name, value from statuses
    union all
    select distinct on (mission, iteration, step)
           mission, iteration, step, created_at, id, 'id',
           to_jsonb(case when step = '' then iteration else step end)
    from (select * from items order by mission, iteration, step, created_at, id) as items
    order by mission, iteration, step, created_at, id
),
objects as materialized (
    select mission, iteration, step,
           jsonb_object_agg(name, value) as object,
           (array_agg(id order by created_at, id) filter (where name = 'id'))[1] as brought_by
    from shown
    group by mission, iteration, step
),
outlines as (
    select f.mission, f.iteration, o.step, o.place
    from fields f
    cross join lateral jsonb_array_elements_text(f.value) with ordinality as o (step, place)
    where f.step = '' and f.name = 'plan'
),
plans as (
    select mission, iteration, coalesce(jsonb_agg(o.object order by outlines.place), '[]') as plan
    from outlines
    join objects o using (mission, iteration, step)
    group by mission, iteration
),
changed as (
    select distinct on (mission, iteration) mission, iteration, s.id as changed_by
    from shown s
    where s.step = '' or exists (
        select from outlines o where (o.mission, o.iteration, o.step) = (s.mission, s.iteration, s.step))
    order by mission, iteration, s.created_at desc, s.id desc
),
newest as materialized (
    select w.mission, w.instant, w.created_at, w.id,
           case when jsonb_typeof(w.value) = 'array' then coalesce(
               (select jsonb_agg(i.iteration order by i.iteration collate "C") from iterations i where i.id = w.id),
               '[]') else 'null' end as ids
    from winners w
    where w.path = array['iterations']
),
records as (
    select o.mission,
           jsonb_agg(
               jsonb_build_object(
                   'iteration', o.object
                       || case when o.object ? 'plan' then jsonb_build_object('plan', coalesce(p.plan, '[]'))
                               else '{}' end
                       || case when s.status in ('awaiting-review', 'failed', 'rejected', 'approved') then '{}'
                               else coalesce(ph.fields, '{}') end,
                   'shown', coalesce(n.ids ? o.iteration, false),
                   'broughtBy', o.brought_by,
                   'changedBy', c.changed_by)
               order by case when jsonb_typeof(o.object -> 'startedAt') = 'string'
                             then mana_ai.fold_instant(o.object ->> 'startedAt') end nulls first,
                        o.iteration collate "C") as iterations
    from objects o
    left join plans p using (mission, iteration)
    left join statuses s using (mission, iteration, step)
    left join phases ph using (mission, iteration)
    left join changed c using (mission, iteration)
    left join newest n using (mission)
    where o.step = ''
    group by o.mission
),
kept_writes as (
    select w.mission,
           jsonb_agg(
               jsonb_build_array(
                   to_jsonb(w.path), case when w.path = array['iterations'] then n.ids else w.value end,
                   w.instant, (extract(epoch from w.created_at) * 1000000)::bigint, w.id::text)
               order by w.path collate "C"
           ) as writes
    from winners w
    left join newest n using (mission)
    group by w.mission
),
histories as (
    select mission, user_id, app_id, table_name, record_id,
           bool_or(op = 'insert' and has_data) as complete,
           coalesce((array_agg(op order by created_at desc, id desc)
               filter (where op = 'insert' or (op = 'delete' and not names_time)))[1] = 'delete',
               false) as tombstone
    from admitted
    group by mission, user_id, app_id, table_name, record_id
)
select h.user_id, h.app_id, h.table_name, h.record_id,
       jsonb_build_object('iterations', coalesce(r.iterations, '[]')) as record,
       h.tombstone
           or coalesce(jsonb_typeof(d.value) = 'string' and d.value <> '""', false) as deleted,
       h.complete,
       coalesce(k.writes, '[]') as writes
from histories h
left join records r using (mission)
left join kept_writes k using (mission)
left join winners d on d.mission = h.mission and d.path = array['deletedAt']
