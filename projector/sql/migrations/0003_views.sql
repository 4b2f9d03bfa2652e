-- Views of the log: snapshot tables, the positions they have reached, and what could not be folded.
--
-- Every column of a snapshot is a function of the log alone, never of the clock or of the order of arrival:
-- so a rebuilt table equals the serving one byte for byte.

create table mana_ai.mission_snapshots (
    user_id text not null,
    mission_id text not null,
    status text,
    agent_id text,
    next_run_at timestamptz,
    effective_grant jsonb,          -- read more strictly than the record shows it
    deleted boolean not null,
    deleted_at timestamptz,
    complete boolean not null,      -- false while known by updates alone
    space_id text,                  -- carried, never identity, never authority
    source int not null,            -- generation of the largest place applied ...
    source_lsn pg_lsn not null,     -- ... and its commit LSN
    last_applied_at timestamptz not null,  -- largest created_at applied
    updated_at timestamptz,         -- largest stamp of a field
    record jsonb not null,          -- as devices show it; kept under a deletion
    state jsonb not null,           -- the fold's state: every path with the write that won it
    primary key (user_id, mission_id)
);

-- The scheduler's question, and its answer: nothing else is in this index.
create index mission_snapshots_due on mana_ai.mission_snapshots (next_run_at)
    where status = 'active' and complete and not deleted and next_run_at is not null;

create table mana_ai.agent_snapshots (
    user_id text not null,
    agent_id text not null,
    status text,
    deleted boolean not null,
    deleted_at timestamptz,
    complete boolean not null,
    space_id text,
    source int not null,
    source_lsn pg_lsn not null,
    last_applied_at timestamptz not null,
    updated_at timestamptz,
    record jsonb not null,
    state jsonb not null,
    primary key (user_id, agent_id)
);

create table mana_ai.record_snapshots (
    user_id text not null,
    app_id text not null,
    table_name text not null,
    record_id text not null,
    deleted boolean not null,
    deleted_at timestamptz,
    complete boolean not null,
    space_id text,
    source int not null,
    source_lsn pg_lsn not null,
    last_applied_at timestamptz not null,
    updated_at timestamptz,
    record jsonb not null,
    state jsonb not null,
    primary key (user_id, app_id, table_name, record_id)
);

-- What a view has applied. Rows and position change in one transaction, and the position only by
-- compare-and-swap of (next_offset, revision, fold_version). Whoever writes rows beside the engine adds one
-- to `revision`, so that the engine drops what it holds in memory.
create table mana_ai.stream_positions (
    view text not null,
    cluster text not null,
    topic text not null,
    partition int not null,
    next_offset bigint not null check (next_offset >= 0),
    revision bigint not null default 0,
    fold_version int not null,
    updated_at timestamptz not null default now(),
    primary key (view, cluster, topic, partition)
);

create table mana_ai.dead_letters (
    id bigint generated always as identity primary key,
    view text not null,
    cluster text not null,
    topic text not null,
    partition int not null,
    "offset" bigint not null,
    source_place text,              -- source:lsn:ord, null when the record names none
    user_id text,                   -- null when unknown or empty
    change_id text,
    reason text not null,           -- short code, bounded
    detail text not null,
    value bytea,
    headers jsonb not null,
    created_at timestamptz not null default now(),
    attempts int not null default 1,
    unique (view, topic, partition, "offset")
);

create index dead_letters_user on mana_ai.dead_letters (user_id, id);
create index dead_letters_change on mana_ai.dead_letters (change_id);

-- Row-level security: a reader and the sink see the user they name; the planner, which schedules for all,
-- sees all; the engine crosses users by its role. Forced, so that owning a table is no way around it.
do $$
declare
    name text;
begin
    foreach name in array array['mission_snapshots', 'agent_snapshots', 'record_snapshots', 'dead_letters'] loop
        execute format('alter table mana_ai.%I enable row level security', name);
        execute format('alter table mana_ai.%I force row level security', name);
        execute format(
            'create policy own_rows on mana_ai.%I for select to projector_reader, projector_sink '
            'using (user_id = current_setting(''app.current_user_id'', true))', name);
        execute format('grant select on mana_ai.%I to projector_reader', name);
        execute format('grant select, insert, update, delete on mana_ai.%I to projector_engine', name);
    end loop;
    foreach name in array array['mission_snapshots', 'agent_snapshots', 'record_snapshots'] loop
        execute format(
            'create policy every_row on mana_ai.%I for select to projector_planner using (true)', name);
        execute format('grant select on mana_ai.%I to projector_planner', name);
    end loop;
end
$$;

grant select on mana_ai.mission_snapshots to projector_sink;

grant select on mana_ai.stream_positions to projector_reader, projector_planner, projector_sink, projector_cdc;
grant select, insert, update, delete on mana_ai.stream_positions to projector_engine;

-- Shadow tables of a rebuild are the engine's own.
grant create on schema mana_ai to projector_engine;

-- The fold a second time, in SQL, for `verify` alone: the three pieces that a query cannot say by itself.
-- They share nothing with the engine's code, on purpose.

-- Microseconds since the Unix epoch of an ISO 8601 instant with a zone; null for anything else.
create function mana_ai.fold_instant(stamp text) returns bigint
language plpgsql immutable strict parallel safe as $$
declare
    year int; month int; day int; zone text; us bigint;
begin
    if stamp !~ '^[0-9]{4}-[01][0-9]-[0-3][0-9]T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$'
    then
        return null;
    end if;
    year := substr(stamp, 1, 4); month := substr(stamp, 6, 2); day := substr(stamp, 9, 2);
    if year < 1 or month not between 1 and 12 or day < 1 or day > 28 + (case
           when month <> 2 then 2 + (month in (1, 3, 5, 7, 8, 10, 12))::int
           else (year % 4 = 0 and (year % 100 <> 0 or year % 400 = 0))::int end)
    then
        return null;
    end if;
    zone := case when right(stamp, 1) = 'Z' then 'Z' else right(stamp, 6) end;
    us := (make_date(year, month, day) - date '1970-01-01')::bigint * 86400000000
          + (substr(stamp, 12, 2)::bigint * 3600 + substr(stamp, 15, 2)::int * 60 + substr(stamp, 18, 2)::int) * 1000000;
    if substr(stamp, 20, 1) = '.' then
        us := us + rpad(left(substr(stamp, 21, length(stamp) - 20 - length(zone)), 6), 6, '0')::int;
    end if;
    if zone <> 'Z' then
        us := us - (left(zone, 1) || '1')::int * (substr(zone, 2, 2)::bigint * 60 + substr(zone, 5, 2)::int) * 60000000;
    end if;
    -- the years 1 to 9999, UTC
    return case when us between -62135596800000000 and 253402300799999999 then us end;
end
$$;

-- The same of a stamp: a text, or an object with a text `at`.
create function mana_ai.fold_stamp(slot jsonb) returns bigint
language sql immutable parallel safe as $$
    select case jsonb_typeof(slot)
        when 'string' then mana_ai.fold_instant(slot #>> '{}')
        when 'object' then case when jsonb_typeof(slot -> 'at') = 'string' then mana_ai.fold_instant(slot ->> 'at') end
    end
$$;

-- The path that a key of an update means: split at dots, literal where a segment would be empty.
create function mana_ai.fold_path(key text) returns text[]
language sql immutable strict parallel safe as $$
    select case when '' = any (string_to_array(key, '.')) or key = '' then array[key]
                else string_to_array(key, '.') end
$$;

-- Puts deeper writes, [{"path": [...], "value": ...}] from short to long, into the object of the top ones.
-- A missing or falsy head becomes an object; any other head that is no object swallows the write.
create function mana_ai.fold_tree(top jsonb, deeper jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
declare
    tree jsonb := coalesce(top, '{}');
    entry jsonb;
    path text[];
    head jsonb;
    swallowed boolean;
begin
    for entry in select value from jsonb_array_elements(coalesce(deeper, '[]')) with ordinality order by ordinality loop
        path := array(select value from jsonb_array_elements_text(entry -> 'path') with ordinality order by ordinality);
        swallowed := false;
        for depth in 1 .. cardinality(path) - 1 loop
            head := tree #> path[1:depth];
            if head is null or head in ('null', 'false', '0', '""') then
                tree := jsonb_set(tree, path[1:depth], '{}');
            elsif jsonb_typeof(head) <> 'object' then
                swallowed := true;
                exit;
            end if;
        end loop;
        if not swallowed then
            tree := jsonb_set(tree, path, entry -> 'value');
        end if;
    end loop;
    return tree;
end
$$;

grant execute on function
    mana_ai.fold_instant(text), mana_ai.fold_stamp(jsonb), mana_ai.fold_path(text), mana_ai.fold_tree(jsonb, jsonb)
    to projector_engine;
