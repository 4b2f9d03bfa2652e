select seq, kind, request_digest, response, prompt_tokens, completion_tokens, created_at, evidence
from mana_ai.run_steps
where run_id = %(run_id)s
order by seq
