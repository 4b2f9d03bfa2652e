-- The records of these users that are still there.
select {user_id}, {app_id}, {table_name}, {record_id}
from {target} as kept
where {user_id} = any (%(users)s) and {app_id} = %(app)s
