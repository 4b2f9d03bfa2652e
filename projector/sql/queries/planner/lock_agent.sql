-- One at a time per user and agent, until the transaction ends.
select pg_advisory_xact_lock(hashtextextended(%(user_id)s || chr(31) || %(agent_id)s, 1))
