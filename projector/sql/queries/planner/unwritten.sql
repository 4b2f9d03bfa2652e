-- Plans whose announcement should have led to a row by now.
select run_id, user_id
from mana_ai.mission_runs
where state = 'planned' and next_attempt_at <= now()
order by next_attempt_at
limit %(limit)s
