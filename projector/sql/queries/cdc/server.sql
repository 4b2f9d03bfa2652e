select (select system_identifier::text from pg_control_system()),
       case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end::text,
       current_setting('wal_level'),
       (extract(epoch from current_setting('wal_sender_timeout')::interval))::float8,
       current_setting('server_version_num')::int,
       pg_is_in_recovery()
