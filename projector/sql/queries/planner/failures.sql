-- Runs of the mission that failed since one last went well, when the latest did, and why.
select count(*), max(written_at), (array_agg(reason order by due_at desc))[1]
from mana_ai.mission_runs
where user_id = %(user_id)s and mission_id = %(mission_id)s and state = 'written' and decision = 'failed'
  and due_at > coalesce(
      (select due_at
       from mana_ai.mission_runs
       where user_id = %(user_id)s and mission_id = %(mission_id)s and state = 'written' and decision = 'ran'
       order by due_at desc
       limit 1),
      '-infinity')
