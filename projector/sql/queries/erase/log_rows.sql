select app_id, count(*) from sync_changes where user_id = %(user)s group by app_id order by app_id
