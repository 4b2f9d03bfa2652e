update mana_ai.verify_runs
set pages = pages + 1, after_user = %(after_user)s, after_record = %(after_record)s, changes = %(changes)s,
    rows = %(rows)s, differences = %(differences)s, examples = %(examples)s, reported_at = clock_timestamp(),
    finished_at = case when %(finished)s then clock_timestamp() end
where id = %(id)s and pages = %(pages)s and finished_at is null
