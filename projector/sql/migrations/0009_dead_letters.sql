-- What a retry needs beside a letter's value and headers. Letters of before have no key: the user they name is the key
-- (see dead_letter_read.sql).
alter table mana_ai.dead_letters
    add column key bytea,               -- of the message
    add column timestamp_ms bigint,     -- of the message, Unix time
    add column retried_at timestamptz;  -- when a retry failed last

-- Another cluster has other records at the same offsets.
alter table mana_ai.dead_letters drop constraint dead_letters_view_topic_partition_offset_key;
alter table mana_ai.dead_letters add unique (view, cluster, topic, partition, "offset");

-- For counts by view and reason, asked for all the time.
create index dead_letters_kind on mana_ai.dead_letters (view, reason);

-- A name for people; what names it for the stream stays as it is.
alter table mana_ai.cdc_dead_letters add column id bigint generated always as identity primary key;
