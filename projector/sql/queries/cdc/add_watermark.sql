insert into mana_ai.cdc_watermarks (generation, lsn, committed_at, horizon, ends)
values (%(generation)s, %(lsn)s::pg_lsn, to_timestamp(%(committed_at)s / 1000000.0), %(horizon)s::text::xid8, %(ends)s::jsonb)
