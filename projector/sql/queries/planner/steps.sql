select seq, kind, request_digest, response, prompt_tokens, completion_tokens
from mana_ai.run_steps
where run_id = %(run_id)s and response is not null
order by seq
