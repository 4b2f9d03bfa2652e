-- What the change stream needs to recover from anything: how far it has published, and rows that it publishes out of
-- the table instead of the WAL (a fill).

alter table mana_ai.cdc_sources
    add column slot_ready boolean not null default false,   -- false while its slot is being created, also anew
    add column timeline int,                                -- of the server when it was last streamed
    add column beat bigint not null default 0;              -- heartbeats ever sent: a topic that saw more has seen the future

update mana_ai.cdc_sources set slot_ready = consistent_lsn is not null;

-- How far the topics went, kept once a second and thinned out with age. Everything that committed below `lsn`, and every
-- transaction below `horizon`, is in the topics below `ends`.
create table mana_ai.cdc_watermarks (
    id bigint generated always as identity primary key,
    generation int not null references mana_ai.cdc_sources on delete cascade,
    lsn pg_lsn not null,
    committed_at timestamptz not null,
    horizon xid8 not null,
    ends jsonb not null             -- {topic: [next offset of each partition]}
);

create index cdc_watermarks_age on mana_ai.cdc_watermarks (committed_at);

-- One row for each time that rows were published out of the table: those of before the slot, of a gap, of a new app.
create table mana_ai.cdc_fills (
    fill bigint generated always as identity primary key,
    generation int not null references mana_ai.cdc_sources on delete cascade,
    reason text not null check (reason in ('history', 'app', 'slot-lost', 'records-lost', 'adopted')),
    apps text[] not null,
    lsn pg_lsn not null,            -- the stream holds what committed from here on; the place of the fill's records
    snapshot_xmin xid8 not null,    -- every transaction below it had ended when the fill was laid out
    whole boolean not null,         -- rows of those transactions too; otherwise only rows listed in cdc_fill_rows
    skip_from jsonb,                -- {topic: [offsets]}: change ids found from there up to filled_from are left out
    filled_from jsonb not null,     -- ends of the topics before the first record of the fill ...
    filled_to jsonb not null,       -- ... and when the row below was the last one acknowledged
    app_id text,
    user_id text,
    created_at timestamptz,
    id uuid,
    rows bigint not null default 0,
    total bigint,                   -- rows that this fill has to publish, as counted when it began or went on
    started_at timestamptz not null default now(),
    reported_at timestamptz not null default now(),
    finished_at timestamptz
);

-- Rows that a fill takes although their transaction is not below its snapshot_xmin. Emptied when it is finished.
create table mana_ai.cdc_fill_rows (
    fill bigint not null references mana_ai.cdc_fills on delete cascade,
    app_id text not null,
    user_id text not null,
    created_at timestamptz not null,
    id uuid not null,
    primary key (fill, app_id, user_id, created_at, id)
);

-- From where on the stream brings an app. Rows of transactions that committed before came out of the table.
create table mana_ai.cdc_apps (
    generation int not null references mana_ai.cdc_sources on delete cascade,
    app_id text not null,
    lsn pg_lsn not null,
    primary key (generation, app_id)
);

insert into mana_ai.cdc_apps (generation, app_id, lsn)
select s.generation, a.app_id, s.consistent_lsn
from mana_ai.cdc_sources s
cross join lateral (
    select distinct m[1] as app_id
    from pg_publication_rel r
    join pg_publication p on p.oid = r.prpubid
    cross join lateral regexp_matches(pg_get_expr(r.prqual, r.prrelid), '''([^'']+)''', 'g') as m
    where r.prrelid = 'sync_changes'::regclass
) a
where s.consistent_lsn is not null
on conflict do nothing;

alter table mana_ai.cdc_fill_rows enable row level security;
alter table mana_ai.cdc_fill_rows force row level security;

grant select, insert, update, delete on
    mana_ai.cdc_watermarks, mana_ai.cdc_fills, mana_ai.cdc_fill_rows, mana_ai.cdc_apps to projector_cdc;
grant select on mana_ai.cdc_watermarks, mana_ai.cdc_fills, mana_ai.cdc_apps
    to projector_engine, projector_planner, projector_reader;

-- Records of a fill share one place, so a place alone does not name a dead letter.
alter table mana_ai.cdc_dead_letters drop constraint cdc_dead_letters_pkey;
alter table mana_ai.cdc_dead_letters add unique nulls not distinct (source, lsn, ord, change_id);

grant select, update on mana_ai.stream_positions to projector_cdc;
