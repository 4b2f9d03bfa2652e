select key, timestamp_ms, headers, detail, value, retried_at from mana_ai.dead_letters where id = %(id)s
