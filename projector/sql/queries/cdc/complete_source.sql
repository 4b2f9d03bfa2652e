update mana_ai.cdc_sources set consistent_lsn = %s::pg_lsn, snapshot_xmax = %s::text::xid8 where generation = %s
