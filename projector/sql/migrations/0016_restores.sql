-- Iterations of ours that a device drops are put back, a bounded number of times.

alter table mana_ai.mission_runs
    add column restores int not null default 0 check (restores >= 0),
    add column restored_at timestamptz,
    add constraint restored_after_written check (restores = 0 or state = 'written'),
    add constraint restored_has_a_time check ((restores = 0) = (restored_at is null));

-- Missions whose newest array lacks an iteration that a server wrote and nobody archived. There are few at any time.
create index mission_iterations_1_dropped on mana_ai.mission_iterations_1 (user_id, mission_id)
    where not deleted and record @?
        '$.iterations[*] ? (@.shown == false && @.iteration.source == "server" && !exists(@.iteration.archivedAt))';
create index mission_iterations_2_dropped on mana_ai.mission_iterations_2 (user_id, mission_id)
    where not deleted and record @?
        '$.iterations[*] ? (@.shown == false && @.iteration.source == "server" && !exists(@.iteration.archivedAt))';
