-- The run ledger: what was due, who works on it, what came of it. Kafka only wakes; this is the truth.
--
--   due ─claim→ running ─plan stored→ planned ─written back→ written
--    ↑            │ ├─gate says no→ held ─────────→ claimed again at next_attempt_at
--    └─retry──────┘ ├─attempts used up→ failed ───┐
--                   └─mission gone→ cancelled ────┴→ due again at next_attempt_at, if the mission still is

create table mana_ai.mission_runs (
    run_id uuid primary key,              -- named by user, mission and due time
    user_id text not null check (user_id <> ''),
    mission_id text not null check (mission_id <> ''),
    due_at timestamptz not null,
    agent_id text not null,               -- whose mission it was when it became due; checked again at each claim
    state text not null default 'due'
        check (state in ('due', 'running', 'planned', 'written', 'held', 'failed', 'cancelled')),
    decision text,                        -- the last gate's answer, a bounded label
    reason text,                          -- the same for people
    attempts int not null default 0 check (attempts >= 0),
    next_attempt_at timestamptz default now(),  -- when somebody should look at it again; null: never
    lease_owner text,
    lease_until timestamptz,
    admitted_at timestamptz,              -- passed the gates, and counts against its agent's limit
    brief jsonb,                          -- what the model is asked, frozen when first asked
    plan jsonb,
    prompt_tokens bigint not null default 0 check (prompt_tokens >= 0),
    completion_tokens bigint not null default 0 check (completion_tokens >= 0),
    iteration_id uuid not null unique,
    change_id uuid,                       -- the row of sync_changes that carries the iteration
    started_at timestamptz,
    planned_at timestamptz,
    written_at timestamptz,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),

    unique (user_id, mission_id, due_at),
    constraint lease_while_running check ((state = 'running') = (lease_owner is not null)),
    constraint lease_has_an_end check ((lease_owner is null) = (lease_until is null)),
    constraint started_before_work check (state not in ('running', 'planned', 'written') or started_at is not null),
    constraint admitted_while_running check (admitted_at is null or state = 'running'),
    constraint plan_when_planned check (state not in ('planned', 'written') or plan is not null),
    constraint plan_not_before check (plan is null or state in ('planned', 'written', 'cancelled')),
    constraint plan_has_a_time check ((plan is null) = (planned_at is null)),
    constraint written_has_a_row check ((state = 'written') = (change_id is not null)),
    constraint written_has_a_time check ((state = 'written') = (written_at is not null)),
    constraint reason_when_stopped check (state not in ('held', 'failed', 'cancelled') or reason is not null),
    constraint waiting_has_a_time check (state not in ('due', 'held', 'planned') or next_attempt_at is not null),
    constraint no_time_when_not_waiting check (state not in ('running', 'written') or next_attempt_at is null)
);

-- A mission has at most one run that is not finished, whatever its due times.
create unique index mission_runs_unfinished on mana_ai.mission_runs (user_id, mission_id)
    where state in ('due', 'running', 'planned', 'held');
-- What workers and the write-back look for; finished runs are in none of these.
create index mission_runs_claimable on mana_ai.mission_runs (next_attempt_at) where state in ('due', 'held');
create index mission_runs_leased on mana_ai.mission_runs (lease_until) where state = 'running';
create index mission_runs_unwritten on mana_ai.mission_runs (next_attempt_at) where state = 'planned';
create index mission_runs_by_agent on mana_ai.mission_runs (user_id, agent_id) where state in ('running', 'held');

-- Every answer of the model and of a tool, stored before anything follows from it.
create table mana_ai.run_steps (
    run_id uuid not null references mana_ai.mission_runs on delete cascade,
    seq int not null check (seq > 0),
    user_id text not null,
    kind text not null check (kind in ('llm', 'tool')),
    request_digest bytea not null check (octet_length(request_digest) = 32),
    response jsonb not null,
    prompt_tokens bigint not null default 0 check (prompt_tokens >= 0),
    completion_tokens bigint not null default 0 check (completion_tokens >= 0),
    created_at timestamptz not null default now(),
    primary key (run_id, seq),
    constraint tools_cost_nothing check (kind = 'llm' or prompt_tokens + completion_tokens = 0)
);

-- What was spent, appended with the step that spent it, so that failed and repeated rounds count.
create table mana_ai.token_usage (
    id bigint generated always as identity primary key,
    user_id text not null,
    agent_id text not null,
    mission_id text not null,
    run_id uuid not null,
    tokens_used bigint not null check (tokens_used > 0),
    ts timestamptz not null default now()
);

create index token_usage_window on mana_ai.token_usage (user_id, agent_id, ts);

do $$
declare
    name text;
begin
    foreach name in array array['mission_runs', 'run_steps', 'token_usage'] loop
        execute format('alter table mana_ai.%I enable row level security', name);
        execute format('alter table mana_ai.%I force row level security', name);
        execute format('create policy every_row on mana_ai.%I to projector_planner using (true) with check (true)', name);
        execute format(
            'create policy own_rows on mana_ai.%I for select to projector_reader '
            'using (user_id = current_setting(''app.current_user_id'', true))', name);
        execute format('grant select on mana_ai.%I to projector_reader', name);
    end loop;
end
$$;

-- The write-back acts as one user at a time, here as in the log.
create policy own_rows_read on mana_ai.mission_runs for select to projector_sink
    using (user_id = current_setting('app.current_user_id', true));
create policy own_rows_written on mana_ai.mission_runs for update to projector_sink
    using (user_id = current_setting('app.current_user_id', true))
    with check (user_id = current_setting('app.current_user_id', true));

grant select, insert, update on mana_ai.mission_runs to projector_planner;
grant select, insert, update, delete on mana_ai.run_steps to projector_planner;
grant select, insert on mana_ai.token_usage to projector_planner;
grant select, update on mana_ai.mission_runs to projector_sink;
