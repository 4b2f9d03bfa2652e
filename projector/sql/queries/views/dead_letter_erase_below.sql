-- All rows that these records stood for were deleted from the log.
delete from mana_ai.dead_letters
where view = %(view)s and cluster = %(cluster)s
  and topic = %(topic)s and partition = %(partition)s and "offset" < %(offset)s
