-- Research goes with the iteration that had it. One that failed leaves it to the next run. Time and position are those
-- of this statement, after the row: that row must not count as a change that came later, and lies below the position.
with written as (
    update mana_ai.mission_runs
    set state = 'written', decision = %(decision)s, reason = %(reason)s, change_id = %(change_id)s,
        written_at = clock_timestamp(), written_lsn = pg_current_wal_insert_lsn(), next_attempt_at = null,
        updated_at = now()
    where run_id = %(run_id)s and state = 'planned'
    returning user_id, mission_id
)
delete from mana_ai.mission_research_jobs j
using written
where %(decision)s = 'ran' and j.user_id = written.user_id and j.mission_id = written.mission_id
