-- A change that a later record of its partition says is erased counts as one that the topics do not hold.
delete from fill_seen s
using (select id, topic, partition, max(place) as place from fill_seen where erased group by 1, 2, 3) e
where s.id = e.id and s.topic = e.topic and s.partition = e.partition and s.place <= e.place
