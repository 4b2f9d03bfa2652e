-- Missions that are due and have no run for it. The cost follows the number that are due: a partial index holds them.
-- No agent has a name as long as a device may write: cut, it still names none, and fits into the indexes of the ledger,
-- where one row that does not would keep every worker from claiming anything.
select m.user_id, m.mission_id, left(coalesce(nullif(m.agent_id, ''), %(default_agent)s), %(longest_agent)s) as agent_id, m.next_run_at
from mana_ai.mission_snapshots m
where m.status = 'active'
  and m.complete
  and not m.deleted
  and m.next_run_at is not null
  and m.next_run_at <= now()
  and not exists (
      select from mana_ai.mission_runs r
      where r.user_id = m.user_id and r.mission_id = m.mission_id
        and r.state in ('due', 'running', 'planned', 'held'))
  -- This very time was dealt with: for good, or until the run may be taken up again.
  and not exists (
      select from mana_ai.mission_runs r
      where r.user_id = m.user_id and r.mission_id = m.mission_id and r.due_at = m.next_run_at
        and (r.next_attempt_at is null or r.next_attempt_at > now()))
  -- Or it was, and so long ago that its run is no longer kept.
  and not exists (
      select from mana_ai.pruned_runs p
      where p.user_id = m.user_id and p.mission_id = m.mission_id and p.newest_due_at >= m.next_run_at)
order by m.next_run_at
limit %(limit)s
