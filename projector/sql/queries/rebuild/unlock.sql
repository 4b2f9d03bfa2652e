select pg_advisory_unlock(hashtext('projector rebuild'), hashtext(%(view)s))
