-- One run with what users wrote, and its mission as the view shows it now; nulls where there is no such mission.
select r.started_at, r.planned_at, r.written_at, r.admitted_at, r.iteration_id, r.change_id, r.failed_calls, r.brief, r.plan,
       m.status as mission_state, m.deleted as mission_deleted, m.next_run_at as mission_next_run_at
from mana_ai.mission_runs r
left join mana_ai.mission_snapshots m using (user_id, mission_id)
where r.run_id = %(run_id)s
