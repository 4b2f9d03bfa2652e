-- The fold of the log by SQL, one row for each record: what `verify` holds against a view.
-- It follows the written rules, not the engine's code; only the log's own columns go in.
with admitted as materialized (
    -- what the engine would not call a dead letter
    select user_id, app_id, table_name, record_id, op, created_at, id,
           coalesce(jsonb_typeof(data) = 'object', false) as has_data,
           coalesce(jsonb_typeof(data -> 'deletedAt') = 'string' and data ->> 'deletedAt' <> '', false) as names_time,
           case when jsonb_typeof(data) = 'object' then data else '{}' end as data,
           case when jsonb_typeof(field_meta) = 'object' then field_meta else '{}' end as field_meta,
           case when op = 'insert' then
               coalesce(mana_ai.fold_stamp(data -> 'updatedAt'), mana_ai.fold_stamp(data -> 'createdAt'))
           end as row_instant,
           common.slot as common_slot,
           mana_ai.fold_stamp(common.slot) as common_instant
    from sync_changes
    -- A row has one stamp for all its keys, as a rule: it is parsed once.
    left join lateral (
        select value as slot
        from jsonb_each(case when jsonb_typeof(field_meta) = 'object' then field_meta else '{}' end)
        limit 1
    ) as common on true
    where app_id = any (%(apps)s)
      and ((app_id, table_name) in (select * from unnest(%(source_apps)s::text[], %(source_tables)s::text[])))
          = %(named)s
      and (%(users)s::text[] is null or user_id = any (%(users)s))
      and user_id <> ''
      and schema_version <= 1
      and (data is null or jsonb_typeof(data) in ('object', 'null'))
),
writes as (
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
    select user_id, app_id, table_name, record_id, created_at, id,
           array['deletedAt'], data -> 'deletedAt', mana_ai.fold_stamp(data -> 'deletedAt')
    from admitted
    where op = 'delete' and names_time
),
winners as materialized (
    select distinct on (user_id, app_id, table_name, record_id, path)
           user_id, app_id, table_name, record_id, path, value, instant, created_at, id
    from writes
    order by user_id, app_id, table_name, record_id, path, instant desc nulls last, created_at desc, id desc
),
visible as (
    select w.*
    from winners w
    where not exists (
        select from winners ancestor
        where ancestor.user_id = w.user_id and ancestor.app_id = w.app_id
          and ancestor.table_name = w.table_name and ancestor.record_id = w.record_id
          and cardinality(ancestor.path) < cardinality(w.path)
          and ancestor.path = w.path[1:cardinality(ancestor.path)]
          and (ancestor.created_at, ancestor.id) >= (w.created_at, w.id)
    )
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
           ) as writes
    from winners
    group by user_id, app_id, table_name, record_id
),
histories as (
    select user_id, app_id, table_name, record_id,
           bool_or(op = 'insert' and has_data) as complete,
           coalesce((array_agg(op order by created_at desc, id desc)
               filter (where op = 'insert' or (op = 'delete' and not names_time)))[1] = 'delete',
               false) as tombstone
    from admitted
    group by user_id, app_id, table_name, record_id
)
select h.user_id, h.app_id, h.table_name, h.record_id,
       coalesce(t.record, '{}') as record,
       h.tombstone
           or coalesce(jsonb_typeof(t.record -> 'deletedAt') = 'string' and t.record ->> 'deletedAt' <> '', false)
           as deleted,
       h.complete,
       coalesce(k.writes, '[]') as writes
from histories h
left join trees t using (user_id, app_id, table_name, record_id)
left join kept_writes k using (user_id, app_id, table_name, record_id)
