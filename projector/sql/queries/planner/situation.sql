-- What runs are about, as the views show it now, and when somebody last wrote to it; how often runs of the mission
-- failed; and the steps that are stored: a row for each run, in order. Nulls where there is no such mission or agent.
select m.record, m.shown, m.next_run_at, a.record, a.shown, greatest(m.changed_at, a.last_applied_at),
       failed.in_row, failed.latest_at, failed.reason,
       (select jsonb_agg(jsonb_build_array(seq, kind, encode(request_digest, 'hex'), response, prompt_tokens,
                                           completion_tokens) order by seq)
        from mana_ai.run_steps
        where run_id = wanted.run_id and response is not null)
from unnest(%(run_ids)s::uuid[], %(users)s::text[], %(missions)s::text[])
     with ordinality as wanted (run_id, user_id, mission_id, place)
-- The limits keep these lookups of their own: a join would read every mission and every agent of the user, for want of
-- a way to hand the id through what stands before the two generations.
left join lateral (
    select record, complete and not deleted as shown, next_run_at, agent_id, ({changed_at}) as changed_at
    from mana_ai.mission_snapshots m
    where user_id = wanted.user_id and mission_id = wanted.mission_id
    limit 1
) m on true
left join lateral (
    select record, complete and not deleted as shown, last_applied_at
    from mana_ai.agent_snapshots
    where user_id = wanted.user_id and agent_id = coalesce(nullif(m.agent_id, ''), %(default_agent)s)
    limit 1
) a on true
cross join lateral ({failures}) failed
order by wanted.place
