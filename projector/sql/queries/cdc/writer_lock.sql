select pg_try_advisory_lock(hashtext('projector writer'), hashtext(%s))
