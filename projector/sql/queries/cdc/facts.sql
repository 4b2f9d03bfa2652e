select current_setting('server_version_num')::int,
       current_setting('wal_level'),
       (select setting from pg_settings where name = 'max_slot_wal_keep_size'),
       current_setting('max_replication_slots')::int,
       (select count(*)::int from pg_replication_slots),
       current_setting('max_wal_senders')::int,
       (select pg_encoding_to_char(encoding) from pg_database where datname = current_database()),
       to_regclass('sync_changes') is not null
