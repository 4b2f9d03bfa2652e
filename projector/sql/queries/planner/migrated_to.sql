select max(number) from mana_ai.schema_migrations
