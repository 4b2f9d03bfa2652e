select has_table_privilege(oid, 'sync_changes', 'SELECT'),
       rolbypassrls or rolsuper
           or not (select relrowsecurity from pg_class where oid = 'sync_changes'::regclass)
from pg_roles
where rolname = 'projector_cdc'
