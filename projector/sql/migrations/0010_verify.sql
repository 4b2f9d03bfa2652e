-- Runs of `projector verify`: how far each has come, and what it found, so that a stopped one goes on where it ended.
create table mana_ai.verify_runs (
    id bigint generated always as identity primary key,
    view text not null,
    total bigint not null,          -- rows of sync_changes of the view, as counted at the start
    pages bigint not null default 0,
    after_user text,                -- every user up to this one is done; null: none yet
    after_record text[],            -- identity of the last one done of a user whose records take several pages
    changes bigint not null default 0,
    rows bigint not null default 0, -- records compared
    differences bigint not null default 0,
    examples jsonb not null default '[]',  -- the first differences, bounded
    started_at timestamptz not null default now(),
    reported_at timestamptz not null default now(),
    finished_at timestamptz
);

create index verify_runs_view on mana_ai.verify_runs (view, id);

-- The examples hold values of users, and nobody but the engine reads them.
alter table mana_ai.verify_runs enable row level security;
alter table mana_ai.verify_runs force row level security;

grant select, insert, update, delete on mana_ai.verify_runs to projector_engine;
