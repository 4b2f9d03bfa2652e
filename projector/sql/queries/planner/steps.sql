select run_id, seq, kind, request_digest, response, prompt_tokens, completion_tokens
from mana_ai.run_steps
where run_id = any(%(run_ids)s)
order by run_id, seq
