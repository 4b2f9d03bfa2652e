-- Deletes some entries of what was spent, never of the rolling day that budgets ask for.
delete from mana_ai.token_usage
where id in (
    select id
    from mana_ai.token_usage
    where ts < %(before)s and ts < now() - interval '24 hours'
    order by ts
    limit %(limit)s)
