delete from mana_ai.cdc_fill_rows where fill = %s
