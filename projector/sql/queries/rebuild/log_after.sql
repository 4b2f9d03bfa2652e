select after_user from mana_ai.view_rebuilds where view = %(view)s
