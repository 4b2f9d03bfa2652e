-- Positions that this program cannot go on from.
select from mana_ai.stream_positions as position
left join unnest(%(topics)s::text[], %(topic_ids)s::uuid[]) as now (topic, topic_id) using (topic)
where position.view = %(view)s
  and (position.fold_version <> %(version)s or position.cluster <> %(cluster)s or position.topic_id <> now.topic_id)
limit 1
