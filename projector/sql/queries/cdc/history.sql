select pg_snapshot_xmax(pg_current_snapshot())::text, exists (select from sync_changes)
