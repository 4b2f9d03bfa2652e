-- Deep research: one job for each mission, kept until an iteration that had its result is in the log. A run that fails
-- leaves it to the next one of its mission, so that what was paid for is used.
create table mana_ai.mission_research_jobs (
    user_id text not null check (user_id <> ''),
    mission_id text not null check (mission_id <> ''),
    -- Who intended it, and the key under which it is submitted: however often that happens, it is one task.
    run_id uuid not null unique references mana_ai.mission_runs on delete cascade,
    provider_id text not null,
    query text not null,            -- what was asked, word for word: a key is good for one question
    state text not null default 'intended' check (state in ('intended', 'submitted', 'completed', 'failed')),
    task_id text,                   -- the service's name for it
    polls int not null default 0 check (polls >= 0),        -- requests about it
    failures int not null default 0 check (failures >= 0),  -- those without a usable answer since one that had
    answer jsonb,
    reason text,
    intended_at timestamptz not null default now(),
    submitted_at timestamptz,
    last_polled_at timestamptz,
    finished_at timestamptz,
    primary key (user_id, mission_id),
    constraint task_when_submitted check (state not in ('submitted', 'completed') or task_id is not null),
    constraint task_has_a_time check ((task_id is null) = (submitted_at is null)),
    constraint answer_when_completed check ((state = 'completed') = (answer is not null)),
    constraint reason_when_failed check (state <> 'failed' or reason is not null),
    constraint end_has_a_time check ((state in ('completed', 'failed')) = (finished_at is not null))
);

alter table mana_ai.mission_research_jobs enable row level security;
alter table mana_ai.mission_research_jobs force row level security;

create policy every_row on mana_ai.mission_research_jobs to projector_planner using (true) with check (true);
create policy own_rows on mana_ai.mission_research_jobs for select to projector_reader, projector_sink
    using (user_id = current_setting('app.current_user_id', true));
-- With the iteration that it was for.
create policy own_rows_deleted on mana_ai.mission_research_jobs for delete to projector_sink
    using (user_id = current_setting('app.current_user_id', true));

grant select, insert, update, delete on mana_ai.mission_research_jobs to projector_planner;
grant select on mana_ai.mission_research_jobs to projector_reader;
grant select, delete on mana_ai.mission_research_jobs to projector_sink;

-- Records that missions link are read by the planner as the user whose mission it is, and in no other way.
do $$
declare
    generation text;
begin
    foreach generation in array array['record_snapshots_1', 'record_snapshots_2'] loop
        execute format('drop policy every_row on mana_ai.%I', generation);
        execute format('alter policy own_rows on mana_ai.%I to projector_reader, projector_sink, projector_planner',
                       generation);
    end loop;
end
$$;
