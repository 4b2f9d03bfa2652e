delete from mana_ai.dead_letters where id = any (%(ids)s)
