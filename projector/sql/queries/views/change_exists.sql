select exists (select from sync_changes where id = %(id)s::uuid)
