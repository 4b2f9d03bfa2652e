-- Every row of these users in these apps, a record's together, each as its topic would carry it.
select user_id, app_id, table_name, record_id, {value}
from sync_changes
where app_id = any (%(apps)s) and user_id = any (%(users)s)
order by user_id, app_id, table_name, record_id
