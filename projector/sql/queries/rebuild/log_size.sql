select count(*) from sync_changes where app_id = any (%(apps)s)
