-- Removes the rows of these users of which the log holds nothing any more.
delete from {target} as kept
where {user_id} = any (%(users)s) and {app_id} = %(app)s
  and not exists (
      select from sync_changes as log
      where log.table_name = {table_name} and log.record_id = {record_id}
        and log.user_id = {user_id} and log.app_id = {app_id}
  )
