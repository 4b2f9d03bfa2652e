-- The fold of the log by SQL, one row for each record of `chosen` (rows of sync_changes, as fold_admitted.sql lets them
-- pass): what `verify` holds against a view. It follows the written rules, not the engine's code; only the log's own columns go in.
with admitted as materialized (
    select user_id, app_id, table_name, record_id, op, created_at, id, space_id,
           coalesce(jsonb_typeof(data) = 'object', false) as has_data,
           coalesce(jsonb_typeof(data -> 'deletedAt') = 'string' and data ->> 'deletedAt' <> '', false) as names_time,
           case when jsonb_typeof(data) = 'object' then data else '{}' end as data,
           case when jsonb_typeof(field_meta) = 'object' then field_meta else '{}' end as field_meta,
           case when op = 'insert' then
               coalesce(mana_ai.fold_stamp(data -> 'updatedAt'), mana_ai.fold_stamp(data -> 'createdAt'))
           end as row_instant,
           -- a device makes a record of any insert, and of an update with a stamp
           case op
               when 'insert' then true
               when 'update' then jsonb_typeof(data) = 'object' and (
                   data ? common.key or data ?| array(
                       select jsonb_object_keys(case when jsonb_typeof(field_meta) = 'object' then field_meta else '{}' end)))
           end as makes,
           common.slot as common_slot,
           mana_ai.fold_stamp(common.slot) as common_instant
    from chosen
    -- A row has one stamp for all its keys, as a rule: it is parsed once.
    left join lateral (
        select key, value as slot
        from jsonb_each(case when jsonb_typeof(field_meta) = 'object' then field_meta else '{}' end)
        limit 1
    ) as common on true
),
histories as materialized (
    select *, newest_op = 'delete' and (
               made is null
               or ((entombed ->> 0)::bigint, (entombed ->> 1) collate "C") > ((made ->> 0)::bigint, (made ->> 1) collate "C")
           ) as tombstone
    from (
        select user_id, app_id, table_name, record_id,
               bool_or(op = 'insert' and has_data) as complete,
               (extract(epoch from max(created_at)) * 1000000)::bigint as newest_us,
               (array_agg(jsonb_build_array((extract(epoch from created_at) * 1000000)::bigint, id::text)
                   order by created_at, id) filter (where makes))[1] as made,
               (array_agg(jsonb_build_array((extract(epoch from created_at) * 1000000)::bigint, id::text)
                   order by created_at desc, id desc) filter (where op = 'insert'))[1] as inserted,
               (array_agg(jsonb_build_array((extract(epoch from created_at) * 1000000)::bigint, id::text)
                   order by created_at desc, id desc) filter (where op = 'delete' and not names_time))[1] as entombed,
               (array_agg(jsonb_build_array((extract(epoch from created_at) * 1000000)::bigint, id::text, space_id)
                   order by created_at desc, id desc) filter (where space_id is not null))[1] as space,
               coalesce((array_agg(op order by created_at desc, id desc)
                   filter (where op = 'insert' or (op = 'delete' and not names_time)))[1], '') as newest_op
        from admitted
        group by user_id, app_id, table_name, record_id
    ) as grouped
),
-- A device passes over a delete of a record that is not made yet.
deletes as materialized (
    select user_id, app_id, table_name, record_id, d.created_at, d.id,
           d.data -> 'deletedAt' as value, mana_ai.fold_stamp(d.data -> 'deletedAt') as instant,
           h.made is null
               or ((extract(epoch from d.created_at) * 1000000)::bigint, d.id::text collate "C")
                   < ((h.made ->> 0)::bigint, (h.made ->> 1) collate "C") as is_early
    from admitted d
    join histories h using (user_id, app_id, table_name, record_id)
    where d.op = 'delete' and d.names_time
),
writes as materialized (
    select a.user_id, a.app_id, a.table_name, a.record_id, a.created_at, a.id,
           case when a.op = 'update' and strpos(field.key, '.') > 0 then mana_ai.fold_path(field.key)
                else array[field.key] end as path,
           field.value,
           coalesce(
               case when a.field_meta -> field.key = a.common_slot then a.common_instant
                    else mana_ai.fold_stamp(a.field_meta -> field.key) end,
               a.row_instant
           ) as instant
    from admitted a
    cross join lateral jsonb_each(a.data) as field
    where a.op in ('insert', 'update')
      and split_part(field.key, '.', 1)
          <> all (array['id', 'updatedAt', '__fieldMeta', '_updatedAtIndex', 'userId', '__lastActor'])
      and not starts_with(field.key, '__field')
    union all
    select user_id, app_id, table_name, record_id, created_at, id, array['deletedAt'], value, instant
    from deletes
    where not is_early
),
winners as materialized (
    select distinct on (user_id, app_id, table_name, record_id, path)
           user_id, app_id, table_name, record_id, path, value, instant, created_at, id
    from writes
    order by user_id, app_id, table_name, record_id, path, instant desc nulls last, created_at desc, id desc
),
hidden as (
    select distinct below.user_id, below.app_id, below.table_name, below.record_id, below.path
    from (
        select *, path[1:depth] as above
        from winners cross join lateral generate_series(1, cardinality(path) - 1) as depth
        where cardinality(path) > 1
        offset 0  -- so that the join is on the path too, and not quadratic in the paths of a record
    ) as below
    join winners ancestor
        on ancestor.user_id = below.user_id and ancestor.app_id = below.app_id
        and ancestor.table_name = below.table_name and ancestor.record_id = below.record_id
        and ancestor.path = below.above
    where (ancestor.created_at, ancestor.id) >= (below.created_at, below.id)
),
visible as (
    select w.*
    from winners w
    left join hidden h using (user_id, app_id, table_name, record_id, path)
    where h.path is null
),
trees as (
    select user_id, app_id, table_name, record_id,
           mana_ai.fold_tree(
               jsonb_object_agg(path[1], value) filter (where cardinality(path) = 1),
               jsonb_agg(jsonb_build_object('path', path, 'value', value) order by cardinality(path), path)
                   filter (where cardinality(path) > 1)
           ) as record
    from visible
    group by user_id, app_id, table_name, record_id
),
kept_writes as (
    select user_id, app_id, table_name, record_id,
           jsonb_agg(
               jsonb_build_array(
                   to_jsonb(path), value, instant, (extract(epoch from created_at) * 1000000)::bigint, id::text)
               order by path collate "C"
           ) as writes,
           max(instant) as updated_us,
           min((extract(epoch from created_at) * 1000000)::bigint) filter (where path = '{deletedAt}') as removed_us
    from winners
    group by user_id, app_id, table_name, record_id
),
-- Of the early deletes, those that would win if an earlier row turned up that made the record.
early as (
    select e.user_id, e.app_id, e.table_name, e.record_id,
           jsonb_agg(
               jsonb_build_array(
                   e.value, e.instant, (extract(epoch from e.created_at) * 1000000)::bigint, e.id::text)
               order by e.created_at desc, e.id desc) as list,
           (array_agg(coalesce(e.instant, (extract(epoch from e.created_at) * 1000000)::bigint)
               order by e.created_at, e.id))[1] as deleted_us
    from (
        select *, max(coalesce(instant, -4611686018427387904)) over (
                   partition by user_id, app_id, table_name, record_id
                   order by created_at desc, id desc
                   rows between unbounded preceding and 1 preceding) as later_instant
        from deletes
        where is_early
    ) as e
    left join winners w
        on w.user_id = e.user_id and w.app_id = e.app_id and w.table_name = e.table_name and w.record_id = e.record_id
        and w.path = '{deletedAt}'
    where (e.later_instant is null or coalesce(e.instant, -4611686018427387904) > e.later_instant)
      and (w.id is null
           or (coalesce(e.instant, -4611686018427387904), e.created_at, e.id)
               > (coalesce(w.instant, -4611686018427387904), w.created_at, w.id))
    group by e.user_id, e.app_id, e.table_name, e.record_id
),
-- The effective grant. The newest row that wrote the wrapped key decides; a later one may end the grant sooner.
grant_rows as materialized (
    select user_id, app_id, table_name, record_id, created_at, id,
           bool_or(path = '{grant}') as is_whole,
           bool_or(path in ('{grant}', '{grant,wrappedKey}')) as is_issue,
           (array_agg(value order by cardinality(path)) filter (where path in ('{grant}', '{grant,wrappedKey}')))[1] as issued,
           coalesce((array_agg(instant order by cardinality(path))
               filter (where path in ('{grant}', '{grant,wrappedKey}')))[1], -4611686018427387904) as instant,
           (array_agg(value) filter (where path = '{grant,expiresAt}'))[1] as ends,
           coalesce(max(instant) filter (where path = '{grant,expiresAt}'), -4611686018427387904) as ends_instant,
           jsonb_agg(jsonb_build_object('path', path[2:], 'value', value) order by cardinality(path), path) as carried
    from writes
    where path[1] = 'grant'
    group by user_id, app_id, table_name, record_id, created_at, id
),
issues as materialized (
    select newest.*,
           case
               when is_whole then case when jsonb_typeof(issued -> 'wrappedKey') = 'string' and issued ->> 'wrappedKey' <> ''
                   then issued end
               when jsonb_typeof(issued) = 'string' and issued <> '""' then (
                   select mana_ai.fold_tree(
                       jsonb_object_agg(path[1], own -> 'value') filter (where cardinality(path) = 1),
                       jsonb_agg(own order by nr) filter (where cardinality(path) > 1))
                   from jsonb_array_elements(carried) with ordinality as elements (own, nr)
                   cross join lateral (
                       select array(select jsonb_array_elements_text(own -> 'path')) as path
                   ) as p
                   where not exists (
                       select from generate_series(1, cardinality(path) - 1) as depth
                       cross join lateral jsonb_array_elements(carried) as above
                       where above -> 'path' = to_jsonb(path[1:depth])))
           end as fields
    from (
        select distinct on (user_id, app_id, table_name, record_id) *
        from grant_rows
        where is_issue
        order by user_id, app_id, table_name, record_id, instant desc, created_at desc, id desc
    ) as newest
),
later_ends as (
    select late.user_id, late.app_id, late.table_name, late.record_id, late.ends_instant as instant,
           late.created_at, late.id, late.ends #>> '{}' as text, mana_ai.fold_stamp(late.ends) as ends_us,
           late.id is not distinct from issue.id as is_own
    from grant_rows late
    left join issues issue using (user_id, app_id, table_name, record_id)
    where not late.is_whole and jsonb_typeof(late.ends) = 'string' and mana_ai.fold_stamp(late.ends) is not null
      and (issue.id is null
           or (late.ends_instant, late.created_at, late.id) > (issue.instant, issue.created_at, issue.id))
),
-- Only those that no newer one makes void, by ending no later.
kept_ends as (
    select *
    from (
        select *, min(ends_us) over (
                   partition by user_id, app_id, table_name, record_id
                   order by instant desc, created_at desc, id desc
                   rows between unbounded preceding and 1 preceding) as sooner_us
        from later_ends
    ) as ranked
    where sooner_us is null or ends_us < sooner_us
),
registers as (
    select user_id, app_id, table_name, record_id,
           jsonb_build_array(
               case when issue.id is not null then jsonb_build_array(
                   nullif(issue.instant, -4611686018427387904),
                   (extract(epoch from issue.created_at) * 1000000)::bigint, issue.id::text, issue.fields) end,
               coalesce(ends.list, '[]')) as register,
           issue.id, issue.instant, issue.created_at, issue.fields, ends.first_us, ends.first_text
    from issues issue
    full join (
        select user_id, app_id, table_name, record_id,
               jsonb_agg(jsonb_build_array(
                   nullif(instant, -4611686018427387904),
                   (extract(epoch from created_at) * 1000000)::bigint, id::text, text)
                   order by instant, created_at, id) as list,
               (array_agg(ends_us order by ends_us) filter (where not is_own))[1] as first_us,
               (array_agg(text order by ends_us) filter (where not is_own))[1] as first_text
        from kept_ends
        group by user_id, app_id, table_name, record_id
    ) as ends using (user_id, app_id, table_name, record_id)
),
-- What the record shows of two scalars that a renewal leaves as they are, so its row does not carry them.
inherited as (
    select user_id, app_id, table_name, record_id, jsonb_object_agg(name, value) as scalars
    from (
        select distinct on (user_id, app_id, table_name, record_id, name)
               user_id, app_id, table_name, record_id, name,
               w.value #> (array['grant', 'derivation', name])[cardinality(w.path) + 1:] as value,
               (coalesce(w.instant, -4611686018427387904), w.created_at, w.id)
                   <= (issue.instant, issue.created_at, issue.id) as is_older
        from issues issue
        join winners w using (user_id, app_id, table_name, record_id)
        cross join unnest(array['version', 'missionId']) as name
        where w.path[1] = 'grant'
          and w.path in (array['grant'], array['grant', 'derivation'], array['grant', 'derivation', name])
        order by user_id, app_id, table_name, record_id, name, w.created_at desc, w.id desc, cardinality(w.path)
    ) as shown
    where is_older and jsonb_typeof(value) in ('string', 'number')
    group by user_id, app_id, table_name, record_id
),
grants as (
    select user_id, app_id, table_name, record_id, register,
           case when first_us < mana_ai.fold_stamp(case when jsonb_typeof(whole -> 'expiresAt') = 'string'
                                                        then whole -> 'expiresAt' end)
                then jsonb_set(whole, '{expiresAt}', to_jsonb(first_text)) else whole end as effective_grant
    from registers r
    left join inherited i using (user_id, app_id, table_name, record_id)
    cross join lateral (
        select case
            when r.fields ? 'derivation' and jsonb_typeof(r.fields -> 'derivation') <> 'object' then r.fields
            else jsonb_set(
                r.fields, '{derivation}',
                coalesce(r.fields -> 'derivation', '{}') || (
                    select coalesce(jsonb_object_agg(key, value), '{}')
                    from jsonb_each(coalesce(i.scalars, '{}'))
                    where jsonb_typeof(coalesce(r.fields #> array['derivation', key], 'null')) = 'null'))
        end as whole
    ) as w
)
select h.user_id, h.app_id, h.table_name, h.record_id,
       coalesce(t.record, '{}') as record,
       h.tombstone or (h.made is null and e.list is not null)
           or coalesce(jsonb_typeof(t.record -> 'deletedAt') = 'string' and t.record ->> 'deletedAt' <> '', false)
           as deleted,
       case
           when h.tombstone then (h.entombed ->> 0)::bigint
           when h.made is null and e.list is not null then e.deleted_us
           when jsonb_typeof(t.record -> 'deletedAt') = 'string' and t.record ->> 'deletedAt' <> ''
               then coalesce(mana_ai.fold_instant(t.record ->> 'deletedAt'), k.removed_us)
       end as deleted_at,
       h.complete,
       h.space ->> 2 as space_id,
       h.newest_us as last_applied_at,
       k.updated_us as updated_at,
       g.effective_grant,
       jsonb_build_object('w', coalesce(k.writes, '[]'), 'n', h.newest_us)
           || case when h.inserted is null then '{}' else jsonb_build_object('i', h.inserted) end
           || case when h.made is distinct from h.inserted then jsonb_build_object('f', h.made) else '{}' end
           || case when e.list is null then '{}' else jsonb_build_object('d', e.list) end
           || case when h.entombed is null then '{}' else jsonb_build_object('t', h.entombed) end
           || case when h.complete then '{"c": true}'::jsonb else '{}' end
           || case when h.space is null then '{}' else jsonb_build_object('s', h.space) end
           || case when g.register is null then '{}' else jsonb_build_object('g', g.register) end as state
from histories h
left join trees t using (user_id, app_id, table_name, record_id)
left join kept_writes k using (user_id, app_id, table_name, record_id)
left join early e using (user_id, app_id, table_name, record_id)
left join grants g using (user_id, app_id, table_name, record_id)
