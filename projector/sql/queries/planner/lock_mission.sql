-- One writer at a time per mission. Never a lock on a row of a view: its engine would wait for us.
select pg_advisory_xact_lock(hashtextextended(%(user_id)s || chr(31) || %(mission_id)s, 2))
