-- Deletes some steps of finished runs. The runs are locked too: one that is taken up again keeps what was paid for.
with old as (
    select s.run_id, s.seq
    from mana_ai.run_steps s join mana_ai.mission_runs r using (run_id)
    where s.created_at < %(before)s and r.finished_at < %(before)s
    order by s.created_at
    limit %(limit)s
    for update skip locked
)
delete from mana_ai.run_steps s
using old
where s.run_id = old.run_id and s.seq = old.seq
