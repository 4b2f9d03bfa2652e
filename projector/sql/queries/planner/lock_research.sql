-- One job begins after the other, so that a day's cap is met exactly.
select pg_advisory_xact_lock(hashtextextended('research of a day', 3))
