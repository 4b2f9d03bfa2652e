-- Values of erased rows are among the most common ones that the planner remembers, and ANALYZE leaves those of a table
-- that became empty as they are.
select pg_clear_attribute_stats(n.nspname::text, c.relname::text, a.attname::text, false)
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
where c.oid = %s::regclass
