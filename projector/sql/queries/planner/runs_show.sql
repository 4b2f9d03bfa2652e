-- One run with what users wrote, its mission as the view shows it now, and how far the view of iterations had applied the
-- mission's changes once the run's own was among them; nulls where there is no such mission, or the row is not back.
select r.started_at, r.planned_at, r.written_at, r.admitted_at, r.iteration_id, r.change_id, r.written_lsn::text,
       i.source as seen_source, i.source_lsn::text as seen_lsn, r.failed_calls, r.research_at,
       r.research_credits, r.brief, r.plan,
       m.status as mission_state, m.deleted as mission_deleted, m.next_run_at as mission_next_run_at
from mana_ai.mission_runs r
left join mana_ai.mission_snapshots m using (user_id, mission_id)
left join mana_ai.mission_iterations i
    on i.user_id = r.user_id and i.mission_id = r.mission_id
    and i.record @> jsonb_build_object('iterations', jsonb_build_array(jsonb_build_object('broughtBy', r.change_id)))
where r.run_id = %(run_id)s
