select count(*)
from sync_changes c
cross join (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) x
where (c.app_id = any (%(apps)s)
       or c.app_id = %(app)s
          and (%(user)s::text is null
               or (c.user_id, c.created_at, c.id) > (%(user)s, %(created_at)s::timestamptz, %(id)s::uuid)))
  and ((x.next >> 32 << 32) + c.xmin::text::bigint
       - case when c.xmin::text::bigint > (x.next & 4294967295) then 4294967296 else 0 end < %(xmin)s
       or x.next > 4294967295 and c.created_at < %(old)s
       or exists (select from mana_ai.cdc_fill_rows f where f.fill = %(fill)s and f.id = c.id))
  and not exists (select from fill_seen s where s.id = c.id)
