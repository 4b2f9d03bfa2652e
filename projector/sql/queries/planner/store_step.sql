-- Answers and what they cost, while the leases hold: what was reserved is spent now. One without a response failed, which
-- may have cost as much. A step of the same number belonged to another conversation: it goes, and what is known of a call
-- that was paid for stays with those that failed, as one the run did not go on with. The last of those are kept.
with given as (
    select *
    from jsonb_to_recordset(%(steps)s) as g
         (run_id uuid, seq int, kind text, request_digest bytea, response jsonb, evidence jsonb, prompt_tokens bigint,
          completion_tokens bigint, failed jsonb)
), mine as (
    {mine}
), unused as (
    select run_id, jsonb_build_object('error', 'Unused', 'ms', 0, 'cost', null, 'route', '[]'::jsonb)
        || coalesce(s.evidence, jsonb_build_object())
        || jsonb_build_object('at', s.created_at, 'prompt_tokens', s.prompt_tokens,
                              'completion_tokens', s.completion_tokens) as call
    from mana_ai.run_steps s join given using (run_id, seq)
    where s.kind <> 'tool'
), held as (
    update mana_ai.mission_runs r
    set prompt_tokens = r.prompt_tokens + given.prompt_tokens,
        completion_tokens = r.completion_tokens + given.completion_tokens,
        reserved_tokens = greatest(0, r.reserved_tokens - (given.prompt_tokens + given.completion_tokens)),
        failed_calls = case
            when coalesce(given.failed, unused.call) is null then r.failed_calls
            else jsonb_path_query_array(
                r.failed_calls || coalesce(
                    unused.call,
                    given.failed || jsonb_build_object(
                        'at', now(), 'prompt_tokens', given.prompt_tokens,
                        'completion_tokens', given.completion_tokens)),
                '$[last - 19 to last]')
        end,
        updated_at = now()
    from mine join given using (run_id) left join unused using (run_id)
    where r.run_id = mine.run_id
    returning r.run_id, r.user_id, r.agent_id, r.mission_id
), spent as (
    insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)
    select user_id, agent_id, mission_id, run_id, prompt_tokens + completion_tokens
    from held join given using (run_id)
    where prompt_tokens + completion_tokens > 0
), stored as (
    insert into mana_ai.run_steps
        (run_id, seq, user_id, kind, request_digest, response, evidence, prompt_tokens, completion_tokens)
    select run_id, seq, user_id, kind, request_digest, response, evidence, prompt_tokens, completion_tokens
    from held join given using (run_id)
    where response is not null
    on conflict (run_id, seq) do update
    set kind = excluded.kind, request_digest = excluded.request_digest, response = excluded.response,
        evidence = excluded.evidence,
        prompt_tokens = excluded.prompt_tokens, completion_tokens = excluded.completion_tokens, created_at = now()
)
select run_id from held
