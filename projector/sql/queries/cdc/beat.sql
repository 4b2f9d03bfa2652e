-- The clock and the oldest transaction still running, in the transaction that carries them through the WAL.
update mana_ai.cdc_sources
set beat = beat + 1
where generation = %s
returning beat, pg_snapshot_xmin(pg_current_snapshot())::text, (extract(epoch from clock_timestamp()) * 1000000)::int8
