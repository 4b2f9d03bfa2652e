update mana_ai.cdc_sources set timeline = %s, publication_oid = %s, beat = greatest(beat, %s) where generation = %s
