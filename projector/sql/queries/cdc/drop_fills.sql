-- Those that a new one takes the place of.
delete from mana_ai.cdc_fills where generation = %s and finished_at is null
