-- Two tables for each view, its generations, and a pointer to the one that readers are shown. A rebuild fills the
-- spare one; promoting it is one update of the pointer, which waits for no reader and makes none wait.

create table mana_ai.view_generations (
    view text primary key,
    target text not null unique,    -- what readers name; the tables are <target>_1 and <target>_2
    serving int not null default 1 check (serving in (1, 2)),
    promoted_at timestamptz
);

grant select on mana_ai.view_generations to
    projector_cdc, projector_engine, projector_planner, projector_sink, projector_reader;
grant update on mana_ai.view_generations to projector_engine;

-- What the spare generation of a view holds.
create table mana_ai.view_rebuilds (
    view text primary key references mana_ai.view_generations,
    id uuid not null,
    -- filling: being folded; ready: as far as the serving one was; failed: see `error`; previous: served before
    -- the promotion, and can again; empty: nothing in it that anybody may use
    state text not null check (state in ('filling', 'ready', 'failed', 'previous', 'empty')),
    source text not null check (source in ('topics', 'log')),
    events bigint not null default 0,      -- records read of the topics, or rows of the log
    total bigint not null default 0,       -- as far as is known
    changes bigint not null default 0,     -- of the view
    seconds double precision not null default 0,
    after_user text not null default '',   -- folding the log: every user up to this one is done
    error text,
    started_at timestamptz not null default now(),
    updated_at timestamptz not null default now()
);

-- `after_user` names users, and nobody but the engine asks.
grant select, insert, update, delete on mana_ai.view_rebuilds to projector_engine;

-- Turns mana_ai.<target>, with its indexes, policies and grants, into the first generation of `view`, makes a second
-- one like it, and puts a view of that name before both. Last in the migration that creates a view's table.
create function mana_ai.keep_generations(view_name text, target text) returns void
language plpgsql set search_path = mana_ai, pg_temp as $$
declare
    first text := target || '_1';
    second text := target || '_2';
    policy record;
    granted record;
    columns text;
begin
    execute format('alter table %I rename to %I', target, first);
    execute format('create table %I (like %I including all)', second, first);
    execute format('alter table %I enable row level security', second);
    execute format('alter table %I force row level security', second);
    for policy in select * from pg_policies where schemaname = 'mana_ai' and tablename = first loop
        execute format('create policy %I on %I as %s for %s to %s using (%s)', policy.policyname, second,
                       policy.permissive, policy.cmd, array_to_string(policy.roles, ', '), policy.qual);
    end loop;
    select string_agg(quote_ident(attname), ', ' order by attnum) into columns
    from pg_attribute where attrelid = first::regclass and attnum > 0 and not attisdropped;
    -- The reader's own rights and policies decide, not those of the view's owner.
    execute format(
        'create view %1$I with (security_invoker = true) as '
        'select %2$s from %3$I where (select serving from view_generations where view = %4$L) = 1 union all '
        'select %2$s from %5$I where (select serving from view_generations where view = %4$L) = 2',
        target, columns, first, view_name, second);
    for granted in
        select grantee::regrole::text as role, string_agg(privilege_type, ', ') as privileges
        from pg_class, aclexplode(relacl) where oid = first::regclass and grantee <> relowner group by grantee
    loop
        execute format('grant %s on %I to %s', granted.privileges, second, granted.role);
        execute format('grant select on %I to %s', target, granted.role);
    end loop;
    -- A rebuild empties the generation that nobody reads.
    execute format('grant truncate on %I, %I to projector_engine', first, second);
    insert into view_generations (view, target) values (view_name, target);
end
$$;

revoke execute on function mana_ai.keep_generations(text, text) from public;

select mana_ai.keep_generations('missions', 'mission_snapshots');
select mana_ai.keep_generations('agents', 'agent_snapshots');
select mana_ai.keep_generations('records', 'record_snapshots');

-- A rebuild has its table ready.
revoke create on schema mana_ai from projector_engine;
