-- How far the view is, in the snapshot of the comparison, and how far the server has written.
select cluster, topic, partition, next_offset, pg_current_wal_insert_lsn()::text
from mana_ai.stream_positions
where view = %(view)s
