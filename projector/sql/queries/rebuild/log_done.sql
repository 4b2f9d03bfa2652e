update mana_ai.view_rebuilds set after_user = %(after)s, updated_at = now() where view = %(view)s
