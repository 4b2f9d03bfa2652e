select run_id, provider_id, query, state, task_id, polls, failures, answer, reason,
       extract(epoch from clock_timestamp() - intended_at)::float8 as age_s
from mana_ai.mission_research_jobs
where user_id = %(user_id)s and mission_id = %(mission_id)s
