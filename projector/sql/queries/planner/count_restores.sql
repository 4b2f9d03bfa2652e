-- The change that put iterations of these runs back is in the log. It is ours, and so is one before it that nobody wrote
-- after: what was newest of the others' stays on record as that.
update mana_ai.mission_runs r
set restores = r.restores + 1,
    restored_at = coalesce(%(restored_at)s, now()),
    restored_over = coalesce(
        (select o.restored_over
         from mana_ai.mission_runs o
         where o.user_id = r.user_id and o.mission_id = r.mission_id and o.restored_at = %(over)s
         limit 1),
        %(over)s)
where r.run_id = any(%(run_ids)s)
