-- What an answer cost that is not kept, as store_step.sql counts one that is.
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
select run_id from held
