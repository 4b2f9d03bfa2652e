-- Which topic a position counts the records of: Kafka gives a topic that is made anew another id under the same name.
-- Null until the view opens the partition for the first time.
alter table mana_ai.stream_positions add column topic_id uuid;

-- Erasure of a user: each part deletes the rows of its own tables.
grant delete on mana_ai.mission_runs, mana_ai.token_usage to projector_planner;

-- Where a fill had come to is of no use once it is finished, and names a user.
update mana_ai.cdc_fills set app_id = null, user_id = null, created_at = null, id = null where finished_at is not null;
