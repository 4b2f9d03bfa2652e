select (select max(id) from mana_ai.dead_letters), (select max(id) from mana_ai.cdc_dead_letters)
