-- Calls of the model that failed: when, for how long, with which kind of error, what was tried and what it cost. No word
-- of a provider or a user is in it. The steps know of those only that the run itself goes on with.

alter table mana_ai.mission_runs
    add column failed_calls jsonb not null default '[]'
        check (jsonb_typeof(failed_calls) = 'array' and octet_length(failed_calls::text) < 100000);
