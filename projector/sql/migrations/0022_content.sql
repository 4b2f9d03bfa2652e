-- What users wrote and models answered is read by people through a role of its own, which no stream enters and no login
-- gets from `projector migrate`: a right that the administrator grants to a person's login.
do $$
begin
    if not exists (select from pg_roles where rolname = 'projector_content') then
        begin
            create role projector_content nologin noinherit nobypassrls;
        exception when duplicate_object or unique_violation then
            null;  -- roles belong to the cluster: another database's migration was faster
        end;
    end if;
end
$$;

-- Who read the content of which run. A run that is worked out for a reader alone is in no other table.
create table mana_ai.content_reads (
    id bigint generated always as identity primary key,
    user_id text not null check (user_id <> ''),    -- whose content it is
    run_id uuid not null,
    reader text not null check (reader <> ''),      -- the login, whatever role it was in
    read_at timestamptz not null default clock_timestamp(),
    xact xid8 not null default pg_current_xact_id()
);

create index content_reads_of_run on mana_ai.content_reads (run_id, read_at);
create index content_reads_user on mana_ai.content_reads (user_id);
create index content_reads_age on mana_ai.content_reads (read_at);

alter table mana_ai.content_reads enable row level security;
alter table mana_ai.content_reads force row level security;

create policy own_rows on mana_ai.content_reads for select to projector_reader, projector_content
    using (user_id = current_setting('app.current_user_id', true));
create policy in_its_name on mana_ai.content_reads for insert to projector_content
    with check (user_id = current_setting('app.current_user_id', true) and reader = session_user);
-- Retention and erasure.
create policy every_row on mana_ai.content_reads to projector_planner using (true);

grant usage on schema mana_ai to projector_content;
grant select on mana_ai.content_reads to projector_reader, projector_content;
-- Time and transaction are the database's to say.
grant insert (user_id, run_id, reader) on mana_ai.content_reads to projector_content;
grant select, delete on mana_ai.content_reads to projector_planner;

-- A run and its steps are shown to the role once its login has said so in a transaction that is over: what is rolled
-- back shows nothing, so nothing is read that is not written down.
do $$
declare
    name text;
begin
    foreach name in array array['mission_runs', 'run_steps'] loop
        execute format(
            'create policy written_down on mana_ai.%1$I for select to projector_content '
            'using (user_id = current_setting(''app.current_user_id'', true) and exists ('
            'select from mana_ai.content_reads c where c.run_id = %1$I.run_id and c.user_id = %1$I.user_id '
            'and c.reader = session_user and c.read_at > now() - interval ''1 minute'' '
            'and c.xact is distinct from pg_current_xact_id_if_assigned()))', name);
    end loop;
end
$$;

grant select (run_id, user_id, brief, plan) on mana_ai.mission_runs to projector_content;
grant select (run_id, user_id, seq, response) on mana_ai.run_steps to projector_content;
