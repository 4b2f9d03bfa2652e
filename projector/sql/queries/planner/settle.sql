-- Ends attempts without a plan, while their leases hold, and wakes who waited for that. Asked under `lock_users`.
with given as (
    select *
    from jsonb_to_recordset(%(ends)s) as g
         (run_id uuid, state text, agent_id text, decision text, reason text, wait_s float8, counts boolean)
), mine as (
    {mine}
), settled as (
    update mana_ai.mission_runs r
    set state = given.state, decision = given.decision, reason = given.reason,
        attempts = case when given.counts then r.attempts else greatest(r.attempts - 1, 0) end,
        next_attempt_at = now() + make_interval(secs => given.wait_s),
        started_at = case when given.state = 'held' then null else r.started_at end,  -- a held run has not begun
        agent_id = case when given.state = 'held' then given.agent_id else r.agent_id end,  -- whose change wakes it
        lease_owner = null, lease_until = null, admitted_at = null, updated_at = now()
    from mine join given using (run_id)
    where r.run_id = mine.run_id
    returning r.run_id, r.user_id, r.agent_id
), ended as (
    select user_id, agent_id from settled
), {woken}
select run_id from settled
