-- Forgets what was written in some finished runs, and keeps digests, tokens and what was planned. The runs are locked:
-- one that is taken up again keeps what was paid for.
with old as (
    select run_id, brief
    from mana_ai.mission_runs
    where finished_at < %(before)s and brief ? 'user'
    order by finished_at
    limit %(limit)s
    for update skip locked
), emptied as (
    update mana_ai.run_steps s
    set response = null
    from old
    where s.run_id = old.run_id
), researched as (
    delete from mana_ai.mission_research_jobs j
    using old
    where j.run_id = old.run_id and j.finished_at < %(before)s
)
update mana_ai.mission_runs r
set brief = old.brief - array['system', 'user', 'inputs'] || jsonb_build_object(
    'systemSha256', encode(sha256(convert_to(old.brief ->> 'system', 'utf8')), 'hex'),
    'userSha256', encode(sha256(convert_to(old.brief ->> 'user', 'utf8')), 'hex')),
    plan = r.plan - 'detail'  -- the endpoint's words, which may quote the prompt
from old
where r.run_id = old.run_id
