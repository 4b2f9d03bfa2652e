-- A letter that is there already was read again: the view was taken back, or the topic holds another record there now.
insert into mana_ai.dead_letters as known
    (view, cluster, topic, partition, "offset", source_place, user_id, change_id, reason, detail, key, value, headers,
     timestamp_ms)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (view, cluster, topic, partition, "offset") do update
set source_place = excluded.source_place, user_id = excluded.user_id, change_id = excluded.change_id,
    reason = excluded.reason, detail = excluded.detail, key = excluded.key, value = excluded.value,
    headers = excluded.headers, timestamp_ms = excluded.timestamp_ms, attempts = known.attempts + 1
