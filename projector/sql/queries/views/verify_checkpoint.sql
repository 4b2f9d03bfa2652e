update mana_ai.verify_runs
set pages = pages + 1, changes = %(changes)s,
    -- Of no use once it is finished, and names a user.
    after_user = case when not %(finished)s then %(after_user)s end,
    after_record = case when not %(finished)s then %(after_record)s::text[] end,
    rows = %(rows)s, differences = %(differences)s, examples = %(examples)s, reported_at = clock_timestamp(),
    finished_at = case when %(finished)s then clock_timestamp() end
where id = %(id)s and pages = %(pages)s and finished_at is null
