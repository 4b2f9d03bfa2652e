-- How many there are stands beside each. The last record of a change goes last.
select s.topic, s.partition, max(s.place), count(*) over ()
from fill_seen s
where not exists (select from sync_changes c where c.id = s.id)
group by s.id, s.topic, s.partition
order by 1, 2, 3
