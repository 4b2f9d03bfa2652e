select mission_id, agent_id, due_at, iteration_id, plan, started_at, planned_at
from mana_ai.mission_runs
where run_id = %(run_id)s and user_id = %(user_id)s and state = 'planned'
for update
