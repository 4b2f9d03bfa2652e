-- Where folding the log had come to is of no use once it has ended, and names a user.
update mana_ai.view_rebuilds set state = %(state)s, error = %(error)s, after_user = '', updated_at = now()
where view = %(view)s
