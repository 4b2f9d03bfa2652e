-- Once transaction ids have come round, a row of 2^32 ago can look as if written after the snapshot: its age tells.
copy (
    select exists (select from fill_seen s where s.id = c.id), (extract(epoch from c.created_at) * 1000)::int8,
           c.user_id, c.created_at, c.id, {columns}
    from (
        select c.*
        from sync_changes c
        cross join (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) x
        where c.app_id = %(app)s
          and {after}
          and ((x.next >> 32 << 32) + c.xmin::text::bigint
               - case when c.xmin::text::bigint > (x.next & 4294967295) then 4294967296 else 0 end < %(xmin)s
               or x.next > 4294967295 and c.created_at < %(old)s
               or exists (select from mana_ai.cdc_fill_rows f
                          where f.fill = %(fill)s and f.app_id = c.app_id and f.user_id = c.user_id
                            and f.created_at = c.created_at and f.id = c.id))
        order by c.user_id, c.created_at, c.id
        limit %(limit)s
    ) c
    order by c.user_id, c.created_at, c.id
) to stdout
