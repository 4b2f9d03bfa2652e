-- The time zone of a user whose cadences are not meant in the zone of the setting: no record carries one.
create table mana_ai.user_zones (
    user_id text primary key check (user_id <> ''),
    zone text not null check (zone <> ''),      -- a name of the IANA database
    set_at timestamptz not null default now()
);

alter table mana_ai.user_zones enable row level security;
alter table mana_ai.user_zones force row level security;

create policy every_row on mana_ai.user_zones to projector_planner using (true) with check (true);
create policy own_rows on mana_ai.user_zones for select to projector_reader, projector_sink
    using (user_id = current_setting('app.current_user_id', true));

grant select, insert, update, delete on mana_ai.user_zones to projector_planner;
grant select on mana_ai.user_zones to projector_reader, projector_sink;

-- How often the database refused to take the plan into the log: the next try comes later each time.
alter table mana_ai.mission_runs
    add column refused_writes int not null default 0 check (refused_writes >= 0);

-- Active missions without a time, among which those with a cron expression are given their first one. No column that
-- changes with every edit: rows that stay in or out of it are updated in place.
create index mission_snapshots_1_timeless on mana_ai.mission_snapshots_1 (user_id, mission_id)
    where status = 'active' and complete and not deleted and next_run_at is null;
create index mission_snapshots_2_timeless on mana_ai.mission_snapshots_2 (user_id, mission_id)
    where status = 'active' and complete and not deleted and next_run_at is null;
