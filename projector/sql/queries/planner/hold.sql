-- The runs wait for others of their agents, whose ends wake them: `woken` finds them under the agent that was judged.
with given as (
    select *
    from jsonb_to_recordset(%(waiting)s) as g (run_id uuid, agent_id text, decision text, reason text, wait_s float8)
), mine as (
    {mine}
)
update mana_ai.mission_runs r
set state = 'held', decision = given.decision, reason = given.reason, agent_id = given.agent_id,
    attempts = greatest(r.attempts - 1, 0), next_attempt_at = now() + make_interval(secs => given.wait_s),
    started_at = null, lease_owner = null, lease_until = null, admitted_at = null, updated_at = now()
from mine join given using (run_id)
where r.run_id = mine.run_id
returning r.run_id
