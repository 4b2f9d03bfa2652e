insert into mana_ai.cdc_apps (generation, app_id, lsn)
select %(generation)s, app_id, %(lsn)s::pg_lsn from unnest(%(apps)s::text[]) as app_id
on conflict (generation, app_id) do update set lsn = excluded.lsn
