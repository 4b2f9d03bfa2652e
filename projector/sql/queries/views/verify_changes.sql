-- Rows of `chosen` as their topic carries them.
select {value}
from chosen
order by created_at, id
