-- One rebuild command at a time for each view; held as long as the session is there.
select pg_try_advisory_lock(hashtext('projector rebuild'), hashtext(%(view)s))
