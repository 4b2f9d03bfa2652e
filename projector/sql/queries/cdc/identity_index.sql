select c.relname
from pg_class t
join pg_index i on i.indrelid = t.oid and i.indisreplident
join pg_class c on c.oid = i.indexrelid
where t.oid = 'sync_changes'::regclass and t.relreplident = 'i'
