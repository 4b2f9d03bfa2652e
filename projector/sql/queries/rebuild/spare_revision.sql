-- Above every revision that an engine may remember of the serving positions, so that its next swap is lost.
update mana_ai.stream_positions set revision = (
    select max(revision) + 1 from mana_ai.stream_positions where view in (%(view)s, %(spare)s))
where view = %(spare)s
