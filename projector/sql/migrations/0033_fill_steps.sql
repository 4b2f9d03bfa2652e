-- What a fill is at: it reads which changes the topics hold, publishes rows, or tells of those that the table has no more.
-- `total` and `resumed_at` are those of the step; how many it has done is `rows` for rows, `step_done` for the others.
alter table mana_ai.cdc_fills
    add column step text not null default 'rows' check (step in ('topics', 'rows', 'erasures')),
    add column step_done bigint not null default 0;
