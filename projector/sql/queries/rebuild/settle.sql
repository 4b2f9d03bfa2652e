update mana_ai.view_rebuilds set state = %(state)s, error = %(error)s, updated_at = now() where view = %(view)s
