-- Part of a query: when the mission `m` was last changed by others than ourselves. An iteration that we put back is no change.
select coalesce(
    (select o.restored_over
     from mana_ai.mission_runs o
     where o.user_id = m.user_id and o.mission_id = m.mission_id and o.restored_at = m.last_applied_at
     limit 1),
    m.last_applied_at)
