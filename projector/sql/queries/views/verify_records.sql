-- The records of one user in the view or in the log, in order, with the number of changes of each.
select app_id, table_name, record_id, sum(changes)::bigint
from (
    select app_id, table_name, record_id, count(*) as changes
    from sync_changes
    where user_id = %(user)s and app_id = any (%(apps)s)
      and ((app_id, table_name) in (select * from unnest(%(source_apps)s::text[], %(source_tables)s::text[])))
          = %(named)s
    group by app_id, table_name, record_id
    union all
    select {app_id}, {table_name}, {record_id}, 0 from {serving} as kept where {user_id} = %(user)s
) as both_sides
where %(after_app)s::text is null
   or (app_id, table_name, record_id) > (%(after_app)s, %(after_table)s, %(after_record)s)
group by app_id, table_name, record_id
order by app_id, table_name, record_id
