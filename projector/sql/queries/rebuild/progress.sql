update mana_ai.view_rebuilds
set events = %(events)s, total = %(total)s, changes = %(changes)s, seconds = %(seconds)s, updated_at = now()
where view = %(view)s
