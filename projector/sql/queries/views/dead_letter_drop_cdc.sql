delete from mana_ai.cdc_dead_letters where id = any (%(ids)s) returning id, reason
