-- Rows in the slot's snapshot whose transaction is not below a horizon. xmin has 32 bits: it is widened by the epoch of
-- the newest transaction id, one less when it would lie in the future.
insert into mana_ai.cdc_fill_rows (fill, app_id, user_id, created_at, id)
select %(fill)s, c.app_id, c.user_id, c.created_at, c.id
from sync_changes c
cross join (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as next) x
where c.app_id = any (%(apps)s)
  and (x.next >> 32 << 32) + c.xmin::text::bigint
      - case when c.xmin::text::bigint > (x.next & 4294967295) then 4294967296 else 0 end
      >= coalesce(%(horizon)s, pg_snapshot_xmin(pg_current_snapshot())::text::bigint)
