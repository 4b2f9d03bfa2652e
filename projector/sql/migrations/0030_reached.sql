-- The largest place (source:lsn:ord) of the view's records below `next_offset`, null when that is not known: a record
-- that is not above it came before, sent again by a writer that had been paused.
alter table mana_ai.stream_positions add column reached text;
