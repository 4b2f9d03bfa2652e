select exists (
    select from sync_changes
    where user_id = %(user_id)s and app_id = %(app_id)s and table_name = %(table_name)s and record_id = %(record_id)s)
