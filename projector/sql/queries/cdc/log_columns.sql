select attname::text, atttypid::int
from pg_attribute
where attrelid = 'sync_changes'::regclass and attnum > 0 and not attisdropped and attgenerated = ''
order by attnum
