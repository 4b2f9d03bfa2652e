select pg_has_role(c.relowner, 'usage')
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
where n.nspname = %s and c.relname = %s
