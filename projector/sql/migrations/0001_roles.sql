-- Roles of the streams. None can log in: the login of the streams enters the one it needs by SET ROLE,
-- so a fault in one part has the rights of that part alone.
--
-- projector_cdc and projector_engine read the whole log across users (BYPASSRLS): one to publish it,
-- one to reload and verify records. The others stay under row-level security.
do $$
declare
    wanted record;
begin
    for wanted in
        select * from (values
            ('projector_cdc', true),
            ('projector_engine', true),
            ('projector_planner', false),
            ('projector_sink', false),
            ('projector_reader', false)
        ) as roles (name, crosses_users)
    loop
        if not exists (select from pg_roles where rolname = wanted.name) then
            begin
                execute format('create role %I nologin noinherit %s', wanted.name,
                               case when wanted.crosses_users then 'bypassrls' else 'nobypassrls' end);
            exception when duplicate_object or unique_violation then
                null;  -- roles belong to the cluster: another database's migration was faster
            end;
        end if;
    end loop;
end
$$;

grant usage on schema mana_ai to
    projector_cdc, projector_engine, projector_planner, projector_sink, projector_reader;

grant select on mana_ai.schema_migrations to
    projector_cdc, projector_engine, projector_planner, projector_sink, projector_reader;

grant select on sync_changes to projector_cdc, projector_engine, projector_sink;
grant insert on sync_changes to projector_sink;
