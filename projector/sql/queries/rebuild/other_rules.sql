-- Positions that this program cannot go on from.
select from mana_ai.stream_positions
where view = %(view)s and (fold_version <> %(version)s or cluster <> %(cluster)s)
limit 1
