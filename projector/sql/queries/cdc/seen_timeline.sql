update mana_ai.cdc_sources set timeline = %s, beat = greatest(beat, %s) where generation = %s
