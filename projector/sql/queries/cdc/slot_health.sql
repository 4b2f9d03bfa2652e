select s.plugin::text,
       s.database is not distinct from current_database(),
       coalesce(s.wal_status, ''),
       to_jsonb(s) ->> 'invalidation_reason'
from pg_replication_slots s
where s.slot_name = %s
