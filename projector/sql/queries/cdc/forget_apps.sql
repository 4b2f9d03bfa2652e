-- An app that is left out now misses rows from here on: when it comes back, it is filled anew.
delete from mana_ai.cdc_apps where generation = %s and app_id <> all (%s::text[])
