update mana_ai.cdc_sources
set slot_ready = true, consistent_lsn = %(lsn)s::pg_lsn, snapshot_xmax = pg_snapshot_xmax(pg_current_snapshot())
where generation = %(generation)s
