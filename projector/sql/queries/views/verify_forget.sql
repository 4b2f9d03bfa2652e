-- Runs before the last ones of the view.
delete from mana_ai.verify_runs
where view = %(view)s
  and id <= (select id from mana_ai.verify_runs where view = %(view)s order by id desc offset 10 limit 1)
