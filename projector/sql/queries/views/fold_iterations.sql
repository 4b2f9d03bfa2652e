-- The fold of the iterations of missions by SQL, one row for each mission: what `verify` holds against their view.
-- It follows the written rules, not the engine's code; only the log's own columns go in, and `records`, the fold of the
-- same rows as records (fold.sql), for what the view keeps of a mission beside its iterations.
-- What belongs together is brought together by grouping: a join of parts without statistics goes through all pairs.
with missions as materialized (
    select dense_rank() over (order by user_id, app_id, table_name, record_id) as mission, * from records
),
-- Of what was written to a mission, the array of iterations and the time of its deletion.
mission_writes as materialized (
    select mission, w.nr, w.write, w.write -> 0 = '["iterations"]' as is_array
    from missions
    cross join lateral jsonb_array_elements(state -> 'w') with ordinality as w (write, nr)
    where w.write -> 0 = '["iterations"]' or w.write #>> '{0,0}' = 'deletedAt'
),
writes as materialized (
    select m.mission, c.created_at, c.id, c.data -> 'iterations' as value, w.write is not null as newest,
           coalesce(
               mana_ai.fold_stamp(c.field_meta -> 'iterations'),
               case when c.op = 'insert' then
                   coalesce(mana_ai.fold_stamp(c.data -> 'updatedAt'), mana_ai.fold_stamp(c.data -> 'createdAt'))
               end) as instant
    from chosen c
    join missions m using (user_id, app_id, table_name, record_id)
    left join mission_writes w on w.mission = m.mission and w.is_array and w.write ->> 4 = c.id::text
    where c.op in ('insert', 'update')
      and jsonb_typeof(c.data) = 'object' and c.data ? 'iterations'
),
iterations as materialized (
    -- the objects among the last 5000 elements of an array; of repeated ids the last
    select *, dense_rank() over (partition by mission order by iteration collate "C") as rank
    from (select distinct on (w.id, e.element ->> 'id')
           w.mission, w.created_at, w.id, w.instant, w.newest, e.element ->> 'id' as iteration, e.element
    from writes w
    cross join lateral jsonb_array_elements(case when jsonb_typeof(w.value) = 'array' then w.value else '[]' end)
        with ordinality as e (element, nr)
    where e.nr > jsonb_array_length(w.value) - 5000
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
           mission, iteration, step, created_at, id, instant, status_name as name, element -> status_name as value
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
           mission, iteration, step, created_at, id, instant, once_name as name, element -> once_name as value
    from items
    where jsonb_typeof(element -> once_name) = 'string' and element ->> once_name <> ''
    order by mission, iteration, step, created_at, id
),
births as materialized (
    select distinct on (mission, iteration, step)
           mission, iteration, step, created_at, id, instant, to_jsonb(case when step = '' then iteration else step end) as value
    from items
    order by mission, iteration, step, created_at, id
),
-- Of an iteration that runs.
phases as materialized (
    select distinct on (i.mission, i.iteration) i.mission, i.iteration, i.created_at, i.id, i.instant, f.value
    from iterations i
    left join statuses s on s.mission = i.mission and s.iteration = i.iteration and s.step = ''
    cross join lateral (
        select jsonb_object_agg(key, value) as value from jsonb_each(i.element)
        where key in ('currentPhase', 'phaseStartedAt', 'phaseDetail')
    ) as f
    where i.rank <= 5000 and f.value is not null
      and (s.value is null or s.value #>> '{}' <> all (array['awaiting-review', 'failed', 'rejected', 'approved']))
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
-- Everything that is remembered, with the number that the row it came from has in the state.
remembered as materialized (
    select *, dense_rank() over (partition by mission order by instant nulls first, created_at, id) - 1 as source
    from (
        select 'b' as kind, mission, iteration, step, created_at, id, instant, '' as name, null as value, 0 as nr
        from births
        union all select 's', mission, iteration, step, created_at, id, instant, '', value, 0 from statuses
        union all select '1', mission, iteration, step, created_at, id, instant, name, value, 0 from texts_that_stay
        union all select 'p', mission, iteration, '', created_at, id, instant, '', value, 0 from phases
        union all select 'f', mission, iteration, step, created_at, id, instant, name, value, value_nr
        from kept where name_nr <= 64 and value_nr <= 64
    ) as every
),
dumped_items as (
    select mission, iteration, step,
           jsonb_object_agg(kind, case when kind in ('1', 'f') then by_name else of_all end) as item
    from (
        select mission, iteration, step, kind, jsonb_object_agg(name, dump) as by_name, jsonb_agg(dump) -> 0 as of_all
        from (
            select mission, iteration, step, kind, name,
                   case kind when 'b' then to_jsonb(min(source))
                             when 'f' then jsonb_agg(jsonb_build_array(source, value) order by nr)
                             else jsonb_agg(jsonb_build_array(source, value)) -> 0 end as dump
            from remembered
            group by mission, iteration, step, kind, name
        ) as named
        group by mission, iteration, step, kind
    ) as kinds
    group by mission, iteration, step
),
dumped as materialized (
    select mission, jsonb_object_agg(iteration, item || steps) as list
    from (
        select mission, iteration, jsonb_agg(item) filter (where step = '') -> 0 as item,
               case when bool_or(step <> '')
                    then jsonb_build_object('t', jsonb_object_agg(step, item) filter (where step <> ''))
                    else '{}' end as steps
        from dumped_items
        group by mission, iteration
    ) as every
    group by mission
),
sources as materialized (
    select mission,
           jsonb_agg(jsonb_build_array(instant, (extract(epoch from created_at) * 1000000)::bigint, id::text)
               order by source) as list
    from (select distinct mission, source, instant, created_at, id from remembered) as every
    group by mission
),
kept_writes as materialized (
    select mission, max((write ->> 2)::bigint) as updated_us,
           jsonb_agg(
               case when not is_array then write
                    when jsonb_typeof(write -> 1) = 'array' then jsonb_set(write, '{1}', coalesce(ids, '[]'))
                    else jsonb_set(write, '{1}', 'null') end
               order by nr) as writes
    from mission_writes
    left join newest_ids using (mission)
    group by mission
)
select m.user_id, m.app_id, m.table_name, m.record_id,
       jsonb_build_object('iterations', coalesce(l.iterations, '[]')) as record,
       m.deleted, m.deleted_at, m.complete, m.space_id, m.last_applied_at,
       k.updated_us as updated_at,
       m.state - 'g' || jsonb_build_object(
           'w', coalesce(k.writes, '[]'), 'o', coalesce(s.list, '[]'), 'e', coalesce(d.list, '{}')) as state
from missions m
left join lists l using (mission)
left join kept_writes k using (mission)
left join sources s using (mission)
left join dumped d using (mission)
