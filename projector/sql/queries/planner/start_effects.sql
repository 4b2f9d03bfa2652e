update mana_ai.effects set stopped_at = null, reason = null
