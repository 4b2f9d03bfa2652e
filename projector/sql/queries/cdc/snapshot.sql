-- What a new query sees: it shows no transaction that has not left the list of those that run.
select pg_current_snapshot()::text
