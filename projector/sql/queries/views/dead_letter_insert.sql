insert into mana_ai.dead_letters
    (view, cluster, topic, partition, "offset", source_place, user_id, change_id, reason, detail, value, headers)
values (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
on conflict (view, topic, partition, "offset") do nothing
