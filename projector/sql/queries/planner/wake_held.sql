-- A place of this agent became free, or tokens that were reserved: who waits for them need not wait longer.
update mana_ai.mission_runs
set next_attempt_at = now(), updated_at = now()
where run_id in (
    select run_id
    from mana_ai.mission_runs
    where user_id = %(user_id)s and agent_id = %(agent_id)s and state = 'held'
      and decision in ('skipped-concurrency', 'skipped-reserved') and next_attempt_at > now()
    order by created_at, run_id
    limit 1
    for update skip locked)
