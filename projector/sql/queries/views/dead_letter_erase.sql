-- A row that was deleted from the log leaves nothing of itself here either.
delete from mana_ai.dead_letters where view = %(view)s and change_id = any (%(change_ids)s)
