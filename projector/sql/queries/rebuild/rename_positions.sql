update mana_ai.stream_positions set view = %(new)s where view = %(old)s
