-- Seconds until the next mission is due that is not yet; null when none is.
select extract(epoch from min(next_run_at) - clock_timestamp())::float8
from mana_ai.mission_snapshots
where status = 'active' and complete and not deleted and next_run_at > now()
