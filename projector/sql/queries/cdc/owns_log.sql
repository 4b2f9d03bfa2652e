select pg_has_role(current_user, relowner, 'USAGE') from pg_class where oid = 'sync_changes'::regclass
