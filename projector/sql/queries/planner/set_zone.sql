-- Says what was there before.
with before as (
    select zone from mana_ai.user_zones where user_id = %(user_id)s
), stored as (
    insert into mana_ai.user_zones (user_id, zone)
    values (%(user_id)s, %(zone)s)
    on conflict (user_id) do update set zone = excluded.zone, set_at = now()
)
select (select zone from before)
