-- What they say of offsets may no longer hold; the fill that is finished says as much.
delete from mana_ai.cdc_watermarks where generation = %s
