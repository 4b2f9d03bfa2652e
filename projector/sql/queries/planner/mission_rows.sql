-- A page of what the log holds of a mission behind a place in it, for `{{value}}` each as its topic would carry it, but
-- without its iterations: every row of a mission repeats the whole array.
-- Served by the index on (table_name, record_id, created_at).
select coalesce(array_agg(value order by created_at, id), '{{}}') as list,
       (array_agg(created_at order by created_at desc, id desc))[1] as last_at,
       (array_agg(id order by created_at desc, id desc))[1] as last_id
from (
    select created_at, id, {value} as value
    from (
        select id, app_id, table_name, record_id, user_id, op,
               case when jsonb_typeof(data) = 'object' and data ? 'iterations' then data || '{{"iterations": null}}'
                    else data end as data,
               field_meta, client_id, created_at, schema_version, actor, origin, space_id
        from sync_changes
        where user_id = %(user_id)s and app_id = %(app_id)s and table_name = %(table_name)s
          and record_id = %(mission_id)s and (created_at, id) > ({after_at}, %(after_id)s)
        order by created_at, id
        limit %(rows)s
    ) as light
) as page
