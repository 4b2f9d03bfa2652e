insert into mana_ai.cdc_fills (generation, reason, apps, lsn, snapshot_xmin, whole, skip_from, filled_from, filled_to)
values (%(generation)s, %(reason)s, %(apps)s, %(lsn)s::pg_lsn, pg_snapshot_xmin(pg_current_snapshot()), %(whole)s,
        %(skip_from)s::jsonb, %(ends)s::jsonb, %(ends)s::jsonb)
returning fill
