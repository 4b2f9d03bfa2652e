-- Runs of each mission that failed since one last went well, when the latest did, and why: a row for each, in order.
select failed.in_row, failed.latest_at, failed.reason
from unnest(%(users)s::text[], %(missions)s::text[]) with ordinality as wanted (user_id, mission_id, place)
cross join lateral (
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
) failed
order by wanted.place
