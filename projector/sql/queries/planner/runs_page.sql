-- Runs for who looks at the ledger, newest first, without what users wrote.
select r.run_id, r.user_id, r.mission_id, r.agent_id, r.due_at, r.state, r.decision, r.reason, r.attempts,
       r.next_attempt_at, r.lease_owner, r.lease_until, r.lease_until < now() as lease_expired, r.prompt_tokens,
       r.completion_tokens, r.created_at, r.updated_at, r.finished_at,
       extract(epoch from clock_timestamp() - r.updated_at)::float8 as age_s
from mana_ai.mission_runs r
where (%(ids)s::uuid[] is null or r.run_id = any (%(ids)s))
  and (%(states)s::text[] is null or r.state = any (%(states)s))
  and (%(user)s::text is null or r.user_id = %(user)s)
  and (%(mission)s::text is null or r.mission_id = %(mission)s)
  and (%(decision)s::text is null or r.decision = %(decision)s)
  and (%(since)s::timestamptz is null or r.created_at >= %(since)s)
  and (%(after)s::timestamptz is null or (r.created_at, r.run_id) < (%(after)s, %(after_id)s))
  and (not %(newest)s or not exists (
      select from mana_ai.mission_runs later
      where later.user_id = r.user_id and later.mission_id = r.mission_id and later.due_at > r.due_at))
order by r.created_at desc, r.run_id desc
limit %(limit)s
