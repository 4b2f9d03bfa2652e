-- What may become of a run. The database decides it, whoever asks and by whatever query:
--
--   from       to         who, and when
--   (none)     due        timers: the mission is due
--   due        running    worker: claimed
--   held       running    worker: claimed at next_attempt_at, to ask the gates again
--   running    due        worker: handed back, or the attempt failed and is tried again later
--   running    held       worker: a gate says not now
--   running    planned    worker: the plan is stored
--   running    failed     worker: the attempts are used up
--   running    cancelled  worker: what was due is no longer; operator
--   planned    written    write-back: the iteration is in the log
--   planned    cancelled  write-back: the mission changed under the plan; operator
--   failed     due        timers: rested, and the mission is still due; operator
--   cancelled  due        the same
--   held       due        operator: look at it again now
--   due        cancelled  operator
--   held       cancelled  operator
--   failed     cancelled  operator: it does not come back by itself
--
-- A run may stay in its state: a lease is prolonged or taken over, a wait gets shorter or longer.
-- Nothing follows on written.

create function mana_ai.refuse_run_transition() returns trigger language plpgsql set search_path = pg_catalog as $$
begin
    raise exception 'run % cannot go from % to %', old.run_id, old.state, new.state using errcode = 'restrict_violation';
end
$$;

-- After, so that what is wrong with the row itself is told first.
create trigger allowed_transitions after update on mana_ai.mission_runs for each row
    when (old.state <> new.state and (old.state, new.state) not in (
        ('due', 'running'), ('due', 'cancelled'),
        ('running', 'due'), ('running', 'held'), ('running', 'planned'), ('running', 'failed'), ('running', 'cancelled'),
        ('planned', 'written'), ('planned', 'cancelled'),
        ('held', 'running'), ('held', 'due'), ('held', 'cancelled'),
        ('failed', 'due'), ('failed', 'cancelled'),
        ('cancelled', 'due')))
    execute function mana_ai.refuse_run_transition();

create policy opened_as_due on mana_ai.mission_runs as restrictive for insert to projector_planner
    with check (state = 'due');

-- When the run reached a state in which nobody works on it any more. Made by the database, so that an update of a run
-- at work, which changes updated_at, touches no index for it.
alter table mana_ai.mission_runs add column finished_at timestamptz
    generated always as (case when state in ('written', 'failed', 'cancelled') then updated_at end) stored;

-- What retention looks for, oldest first, and what an operator does, newest first.
create index mission_runs_finished on mana_ai.mission_runs (finished_at) where finished_at is not null;
create index mission_runs_newest on mana_ai.mission_runs (created_at desc, run_id desc);
create index run_steps_age on mana_ai.run_steps (created_at);
create index token_usage_age on mana_ai.token_usage (ts);

-- Up to which due time the runs of a mission were deleted by retention. Without this, a mission that shows such a time
-- once more, be it that a view is behind or a device brings it back, would run for it again.
create table mana_ai.pruned_runs (
    user_id text not null check (user_id <> ''),
    mission_id text not null check (mission_id <> ''),
    newest_due_at timestamptz not null,
    primary key (user_id, mission_id)
);

alter table mana_ai.pruned_runs enable row level security;
alter table mana_ai.pruned_runs force row level security;

create policy every_row on mana_ai.pruned_runs to projector_planner using (true) with check (true);

grant select, insert, update, delete on mana_ai.pruned_runs to projector_planner;
