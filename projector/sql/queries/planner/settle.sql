-- Ends an attempt without a plan, while the lease holds.
update mana_ai.mission_runs
set state = %(state)s, decision = %(decision)s, reason = %(reason)s,
    attempts = case when %(counts)s then attempts else greatest(attempts - 1, 0) end,
    next_attempt_at = now() + make_interval(secs => %(wait_s)s),
    started_at = case when %(state)s = 'held' then null else started_at end,  -- a held run has not begun
    lease_owner = null, lease_until = null, admitted_at = null, updated_at = now()
where run_id = %(run_id)s and lease_owner = %(owner)s and state = 'running'
