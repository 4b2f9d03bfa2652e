select s.plugin,
       s.database = current_database(),
       s.active_pid,
       s.confirmed_flush_lsn::text,
       s.wal_status,
       coalesce(to_jsonb(s) ->> 'invalidation_reason', case when s.wal_status = 'lost' then 'wal_removed' end)
from pg_replication_slots s
where s.slot_name = %s
