-- How far this server has written, and the generation of it as a source; null before the stream's first start.
select pg_current_wal_insert_lsn()::text, (select max(generation) from mana_ai.cdc_sources)
