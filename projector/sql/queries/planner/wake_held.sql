-- A place of this agent became free: who waits for it need not wait longer. Asked under `lock_users`.
with ended as (
    select %(user_id)s::text as user_id, %(agent_id)s::text as agent_id
), {woken}
select
