-- What users wrote goes first: of an old run the digests of its prompts and requests, its tokens and its plan stay.

alter table mana_ai.run_steps alter response drop not null;

create index mission_runs_unpruned on mana_ai.mission_runs (finished_at) where brief ? 'user';
drop index mana_ai.run_steps_age;

-- So that a stream can tell a database that is behind it.
grant select on mana_ai.schema_migrations to projector_planner;
