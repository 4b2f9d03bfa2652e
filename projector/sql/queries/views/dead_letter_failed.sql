update mana_ai.dead_letters
set attempts = attempts + 1, reason = %(reason)s, detail = %(detail)s, retried_at = now()
where id = %(id)s
