select t.relreplident::text, c.relname::text
from pg_class t
left join pg_index i on i.indrelid = t.oid and i.indisreplident
left join pg_class c on c.oid = i.indexrelid
where t.oid = 'sync_changes'::regclass
