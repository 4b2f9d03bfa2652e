-- No run names an agent by more than 256 characters: an entry that is too long for an index of the ledger fails the claim
-- of whoever comes to it, and with it everybody's. Cut, such a name still is no agent's. Runs are under row security for
-- their owner as well, who sees none of them otherwise.
alter table mana_ai.mission_runs no force row level security;
update mana_ai.mission_runs set agent_id = left(agent_id, 256) where length(agent_id) > 256;
alter table mana_ai.mission_runs force row level security;

alter table mana_ai.mission_runs
    add constraint agent_fits_into_indexes check (length(agent_id) <= 256),
    -- The newest change of the mission that was another's when an iteration was put back. `restored_at` is the time of
    -- our own change from now on: a mission whose newest change that is was not changed by anybody since.
    add column restored_over timestamptz;

-- Few runs are in it, however many a mission has.
create index mission_runs_restored on mana_ai.mission_runs (user_id, mission_id, restored_at)
    where restored_at is not null;
