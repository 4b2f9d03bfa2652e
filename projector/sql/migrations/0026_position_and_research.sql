-- Where in the WAL an iteration was written: past its row, and before the commit that brings it to readers of the log.
-- And what deep research a run began: when, and what the service said that it costs. The job itself goes with the
-- iteration; this is what a day's jobs are counted by, and what is left to show.

alter table mana_ai.mission_runs
    add column written_lsn pg_lsn,
    add column research_at timestamptz,
    add column research_credits float8 check (research_credits >= 0 and research_credits < 'infinity');

create index mission_runs_researched on mana_ai.mission_runs (research_at) where research_at is not null;
