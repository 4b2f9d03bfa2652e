-- The newest first; a null limit stands for all.
select horizon::text, ends from mana_ai.cdc_watermarks where generation = %s order by id desc limit %s
