-- One step and what it cost, while the lease holds: what was reserved is spent now. A step of the same number belonged
-- to another conversation.
with held as (
    update mana_ai.mission_runs
    set prompt_tokens = prompt_tokens + %(prompt_tokens)s,
        completion_tokens = completion_tokens + %(completion_tokens)s,
        reserved_tokens = greatest(0, reserved_tokens - (%(prompt_tokens)s::bigint + %(completion_tokens)s)),
        updated_at = now()
    where run_id = %(run_id)s and lease_owner = %(owner)s and state = 'running'
    returning run_id, user_id, agent_id, mission_id
), spent as (
    insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)
    select user_id, agent_id, mission_id, run_id, %(prompt_tokens)s::bigint + %(completion_tokens)s
    from held
    where %(prompt_tokens)s::bigint + %(completion_tokens)s > 0
)
insert into mana_ai.run_steps
    (run_id, seq, user_id, kind, request_digest, response, prompt_tokens, completion_tokens)
select run_id, %(seq)s, user_id, %(kind)s, %(request_digest)s, %(response)s, %(prompt_tokens)s, %(completion_tokens)s
from held
on conflict (run_id, seq) do update
set kind = excluded.kind, request_digest = excluded.request_digest, response = excluded.response,
    prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens, created_at = now()
