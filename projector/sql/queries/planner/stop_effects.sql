-- Stopping twice keeps when it was done first.
update mana_ai.effects
set stopped_at = coalesce(stopped_at, now()), reason = coalesce(%(reason)s, reason, 'by an operator')
