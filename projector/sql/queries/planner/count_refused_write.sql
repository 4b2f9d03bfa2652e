-- The database refused the plan once more; the run says so as long as that is so.
update mana_ai.mission_runs
set refused_writes = refused_writes + 1, decision = 'write-refused', reason = %(reason)s, updated_at = now()
where run_id = %(run_id)s and state = 'planned'
returning refused_writes
