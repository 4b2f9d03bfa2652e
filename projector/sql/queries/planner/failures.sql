-- Runs of the mission `wanted` that failed since one last went well, when the latest did, and why: part of a query.
select count(*) as in_row, max(written_at) as latest_at, (array_agg(reason order by due_at desc))[1] as reason
from mana_ai.mission_runs
where user_id = wanted.user_id and mission_id = wanted.mission_id and state = 'written' and decision = 'failed'
  and due_at > coalesce(
      (select due_at
       from mana_ai.mission_runs
       where user_id = wanted.user_id and mission_id = wanted.mission_id and state = 'written' and decision = 'ran'
       order by due_at desc
       limit 1),
      '-infinity')
