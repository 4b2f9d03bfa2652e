-- Part of a query: for each run of `ended` a place of its agent became free, or tokens that were reserved, so one of those
-- that wait for them need not wait longer.
waiting as (
    select r.run_id
    from mana_ai.mission_runs r
    join (
        select held.run_id
        from (select user_id, agent_id, count(*) as places from ended group by user_id, agent_id) freed
        cross join lateral (
            select run_id, row_number() over (order by created_at, run_id) as turn
            from mana_ai.mission_runs
            where user_id = freed.user_id and agent_id = freed.agent_id and state = 'held'
              and decision in ('skipped-concurrency', 'skipped-reserved') and next_attempt_at > now()
        ) held
        where held.turn <= freed.places
    ) waiting using (run_id)
    where r.state = 'held'
    for update of r skip locked
), woken as (
    update mana_ai.mission_runs r
    set next_attempt_at = now(), updated_at = now()
    from waiting
    where r.run_id = waiting.run_id
)
