select fill from mana_ai.cdc_fills where generation = %s and finished_at is null order by fill
