-- What a run may still spend of what it reserved when it was admitted. It counts while the run is admitted and its
-- lease holds, so nobody has to free it: neither a run that settles nor a worker that vanishes.
alter table mana_ai.mission_runs add column reserved_tokens bigint not null default 0 check (reserved_tokens >= 0);

-- What the whole installation spent, by day (UTC): every call asks for it, and no erasure gives tokens back. The day of
-- this migration counts from here on.
create table mana_ai.token_days (
    day date primary key,
    tokens bigint not null check (tokens > 0)
);

create function mana_ai.count_tokens() returns trigger language plpgsql as $$
begin
    insert into mana_ai.token_days as known (day, tokens)
    select (ts at time zone 'UTC')::date, sum(tokens_used)
    from spent
    group by 1
    order by 1
    on conflict (day) do update set tokens = known.tokens + excluded.tokens;
    return null;
end
$$;

create trigger count_tokens after insert on mana_ai.token_usage
    referencing new table as spent
    for each statement execute function mana_ai.count_tokens();

-- Whether anything may leave: calls of the model, and changes written into the log.
create table mana_ai.effects (
    only_row boolean primary key default true check (only_row),
    stopped_at timestamptz,   -- by an operator; null: they happen
    reason text,
    constraint reason_when_stopped check ((stopped_at is null) = (reason is null))
);

insert into mana_ai.effects default values;

grant select, insert, update on mana_ai.token_days to projector_planner;
grant select, update on mana_ai.effects to projector_planner;
