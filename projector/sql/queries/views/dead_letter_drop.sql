-- Not those that a retry has in its hands, and never waiting for one.
delete from mana_ai.dead_letters
where id in (select id from mana_ai.dead_letters where id = any (%(ids)s) order by id for update skip locked)
returning id, reason
