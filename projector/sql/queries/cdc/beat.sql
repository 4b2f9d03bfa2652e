-- One round trip: keeps the watermarks that were acknowledged since the last beat, and sends the clock and the oldest
-- transaction still running on their way through the WAL.
with kept as (
    insert into mana_ai.cdc_watermarks (generation, lsn, committed_at, horizon, ends)
    select %(generation)s, lsn, to_timestamp(committed_at / 1000000.0), horizon::xid8, ends
    from jsonb_to_recordset(%(published)s::jsonb) as m (lsn pg_lsn, committed_at bigint, horizon text, ends jsonb)
), beat as (
    update mana_ai.cdc_sources
    set beat = beat + 1
    where generation = %(generation)s
    returning beat, pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
              (extract(epoch from clock_timestamp()) * 1000000)::int8 as at
)
select beat, horizon, at, pg_logical_emit_message(true, %(prefix)s, %(secret)s || ':' || beat) from beat
