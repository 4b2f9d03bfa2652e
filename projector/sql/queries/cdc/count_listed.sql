select count(*)
from mana_ai.cdc_fill_rows f
where f.fill = %(fill)s
  and (f.app_id = any (%(apps)s)
       or f.app_id = %(app)s
          and (%(user)s::text is null
               or (f.user_id, f.created_at, f.id) > (%(user)s, %(created_at)s::timestamptz, %(id)s::uuid)))
  and not exists (select from fill_seen s where s.id = f.id)
