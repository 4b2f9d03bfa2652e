delete from mana_ai.stream_positions where view = %(view)s
