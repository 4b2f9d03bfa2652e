-- The spare generation serves from here on: readers see it with their next statement and wait for nothing.
update mana_ai.view_generations set serving = 3 - serving, promoted_at = now() where view = %(view)s
