select i.indisvalid
from pg_index i join pg_class c on c.oid = i.indexrelid
where i.indrelid = 'sync_changes'::regclass and c.relname = %s
