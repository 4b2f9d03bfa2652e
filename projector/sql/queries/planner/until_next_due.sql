-- Seconds until the next mission is due that is not yet; null when none is. Asked of the table that serves, and not through
-- what stands before both, where min() would read every mission that is to be due at some time.
select extract(epoch from case serving
    when 1 then (
        select min(next_run_at) from mana_ai.mission_snapshots_1
        where status = 'active' and complete and not deleted and next_run_at > now())
    else (
        select min(next_run_at) from mana_ai.mission_snapshots_2
        where status = 'active' and complete and not deleted and next_run_at > now())
    end - clock_timestamp())::float8
from mana_ai.view_generations
where view = 'missions'
