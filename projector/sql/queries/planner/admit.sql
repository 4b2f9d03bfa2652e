-- The runs passed their gates: from here on they count against their agents' limits, and their questions stand.
with given as (
    select *
    from jsonb_to_recordset(%(runs)s) as g (run_id uuid, agent_id text, reserved bigint, brief jsonb)
), mine as (
    {mine}
)
update mana_ai.mission_runs r
set admitted_at = now(), reserved_tokens = given.reserved, agent_id = given.agent_id, brief = given.brief,
    decision = 'admitted', reason = null, updated_at = now()
from mine join given using (run_id)
where r.run_id = mine.run_id
returning r.run_id
