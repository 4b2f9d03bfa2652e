-- How many rows each of the four would take in the end; a null takes none.
select (select count(*)
        from mana_ai.mission_runs
        where finished_at < %(steps)s and brief ? 'user'),
       (select count(*)
        from mana_ai.mission_runs
        where finished_at < %(runs)s and (next_attempt_at is null or next_attempt_at <= now())),
       (select count(*)
        from mana_ai.token_usage
        where ts < %(usage)s and ts < now() - interval '24 hours'),
       (select count(*)
        from mana_ai.content_reads
        where read_at < %(reads)s)
