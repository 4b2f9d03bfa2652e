-- What a run may still spend of what it reserved when it was admitted. It counts while the run is admitted and its
-- lease holds, so nobody has to free it: neither a run that settles nor a worker that vanishes.
alter table mana_ai.mission_runs add column reserved_tokens bigint not null default 0 check (reserved_tokens >= 0);

-- What the whole installation spent since its day began, out of the index alone.
create index token_usage_by_time on mana_ai.token_usage (ts) include (tokens_used);

-- Whether anything may leave: calls of the model, and changes written into the log.
create table mana_ai.effects (
    only_row boolean primary key default true check (only_row),
    stopped_at timestamptz,   -- by an operator; null: they happen
    reason text,
    constraint reason_when_stopped check ((stopped_at is null) = (reason is null))
);

insert into mana_ai.effects default values;

grant select, update on mana_ai.effects to projector_planner;
