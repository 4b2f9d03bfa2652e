-- Active missions that should have a time and have none. Those that are started by hand have none either, and there may be
-- many: to tell the two apart, their records had to be read, one by one and again at every look. A column, because an
-- index that asks the record itself would be written with every edit of a mission, whether it is in it or not.
-- Filling it in writes both tables anew, while nobody reads them: a second for 100,000 missions.
-- It is never null, and not declared so: the views' temporary tables are made like these, and are not told it.
do $$
declare
    name text;
begin
    foreach name in array array['mission_snapshots_1', 'mission_snapshots_2'] loop
        execute format('drop index mana_ai.%I', name || '_timeless');
        execute format($column$
            alter table mana_ai.%I add column timeless boolean generated always as (
                (status = 'active' and complete and not deleted and next_run_at is null
                 and (record ->> 'nextRunAt' is not null or record -> 'cadence' ->> 'kind' = 'cron')) is true) stored
            $column$, name);
        execute format('create index %I on mana_ai.%I (user_id, mission_id) where timeless', name || '_timeless', name);
    end loop;
end
$$;
