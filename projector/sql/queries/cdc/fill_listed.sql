-- A row that was deleted meanwhile counts as one that the topics need not get.
copy (
    select c.id is null or exists (select from fill_seen s where s.id = c.id),
           (extract(epoch from f.created_at) * 1000)::int8, f.user_id, f.created_at, f.id, {columns}
    from (
        select f.user_id, f.created_at, f.id
        from mana_ai.cdc_fill_rows f
        where f.fill = %(fill)s and f.app_id = %(app)s
          and (%(user)s::text is null
               or (f.user_id, f.created_at, f.id) > (%(user)s, %(created_at)s::timestamptz, %(id)s::uuid))
        order by f.user_id, f.created_at, f.id
        limit %(limit)s
    ) f
    left join sync_changes c on c.id = f.id
    order by f.user_id, f.created_at, f.id
) to stdout
