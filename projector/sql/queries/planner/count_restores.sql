update mana_ai.mission_runs
set restores = restores + 1, restored_at = now()
where run_id = any(%(run_ids)s)
returning restores
