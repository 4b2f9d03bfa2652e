select {keys}, {document} as document, kept.state
from unnest(%(user_ids)s::text[], %(app_ids)s::text[], %(tables)s::text[], %(record_ids)s::text[])
     as wanted (user_id, app_id, table_name, record_id)
cross join lateral (
    select *
    from {serving} as kept
    where {user_id} = wanted.user_id and {app_id} = wanted.app_id
      and {table_name} = wanted.table_name and {record_id} = wanted.record_id
    offset 0
) as kept
