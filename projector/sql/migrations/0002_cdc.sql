-- What the change stream knows beside the slot itself.

-- Generations of the source: LSNs of one say nothing about LSNs of another. A row is written before its slot is
-- created (consistent_lsn null) and completed after, so that an interrupted creation is recognised.
create table mana_ai.cdc_sources (
    generation int primary key check (generation > 0),
    system_identifier text not null,
    slot_name text not null,
    consistent_lsn pg_lsn,          -- the stream holds everything that committed after it
    snapshot_xmax xid8,             -- rows of transactions at or above it may be in the stream
    created_at timestamptz not null default now()
);

-- Changes that no topic can hold. Their content stands in sync_changes, under the change id.
create table mana_ai.cdc_dead_letters (
    source int not null,
    lsn pg_lsn not null,
    ord int not null,
    topic text not null,
    change_id text,
    user_id text not null,
    size bigint not null,           -- bytes of the record
    reason text not null,           -- short code, bounded
    created_at timestamptz not null default now(),
    primary key (source, lsn, ord)
);

create index cdc_dead_letters_user on mana_ai.cdc_dead_letters (user_id);

alter table mana_ai.cdc_dead_letters enable row level security;
alter table mana_ai.cdc_dead_letters force row level security;
create policy own_rows on mana_ai.cdc_dead_letters for select to projector_reader
    using (user_id = current_setting('app.current_user_id', true));

grant select, insert, update, delete on mana_ai.cdc_sources, mana_ai.cdc_dead_letters to projector_cdc;
grant select on mana_ai.cdc_sources to projector_engine, projector_planner, projector_reader;
grant select, delete on mana_ai.cdc_dead_letters to projector_engine;
grant select on mana_ai.cdc_dead_letters to projector_reader;
