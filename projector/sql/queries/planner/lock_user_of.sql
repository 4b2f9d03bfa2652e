-- The lock of `lock_users` for the user of one run.
select pg_advisory_xact_lock(hashtextextended(user_id, 1))
from mana_ai.mission_runs
where run_id = %(run_id)s
