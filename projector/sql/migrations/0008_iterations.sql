-- The iterations of missions, folded one by one: one row for each mission that ever had a change.

create table mana_ai.mission_iterations (
    user_id text not null,
    mission_id text not null,
    deleted boolean not null,       -- of the mission, as its snapshot says
    deleted_at timestamptz,
    complete boolean not null,
    space_id text,
    source int not null,
    source_lsn pg_lsn not null,
    last_applied_at timestamptz not null,
    updated_at timestamptz,         -- largest stamp of an array, or of the deletion
    record jsonb not null,          -- {"iterations": [{"iteration", "shown", "broughtBy", "changedBy"}]}
    state jsonb not null,
    primary key (user_id, mission_id)
);

alter table mana_ai.mission_iterations enable row level security;
alter table mana_ai.mission_iterations force row level security;

create policy own_rows on mana_ai.mission_iterations for select to projector_reader, projector_sink
    using (user_id = current_setting('app.current_user_id', true));
create policy every_row on mana_ai.mission_iterations for select to projector_planner using (true);

grant select on mana_ai.mission_iterations to projector_reader, projector_sink, projector_planner;
grant select, insert, update, delete on mana_ai.mission_iterations to projector_engine;

select mana_ai.keep_generations('iterations', 'mission_iterations');

-- For people who ask: one row for each iteration, under the rights of who asks.
create view mana_ai.mission_iteration_list with (security_invoker = true) as
select m.user_id, m.mission_id,
       i.value -> 'iteration' ->> 'id' as iteration_id,
       i.value -> 'iteration' ->> 'overallStatus' as status,
       i.value -> 'iteration' ->> 'startedAt' as started_at,
       i.value -> 'iteration' ->> 'finishedAt' as finished_at,
       i.value -> 'iteration' ->> 'archivedAt' as archived_at,
       i.value -> 'iteration' ->> 'source' as source,
       i.value -> 'iteration' ->> 'userFeedback' as feedback,
       (i.value ->> 'shown')::boolean as shown,          -- whether the mission's newest array has it
       (i.value ->> 'broughtBy')::uuid as brought_by,    -- the change that carried it first
       (i.value ->> 'changedBy')::uuid as changed_by,    -- the change that brought the last of what it holds
       m.deleted,
       i.value -> 'iteration' as iteration
from mana_ai.mission_iterations m
cross join lateral jsonb_array_elements(m.record -> 'iterations') as i;

grant select on mana_ai.mission_iteration_list to projector_reader, projector_sink, projector_planner;
