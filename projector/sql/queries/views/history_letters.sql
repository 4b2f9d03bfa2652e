-- Changes among these that no topic can hold.
select change_id, source, lsn::text, ord, reason, size
from mana_ai.cdc_dead_letters
where user_id = %(user_id)s and change_id = any (%(ids)s)
order by source, lsn, ord
