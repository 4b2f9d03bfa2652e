-- The run to go on with, when the newest of the view was stopped before its end.
select id, total, pages, after_user, after_record, changes, rows, differences, examples
from (select * from mana_ai.verify_runs where view = %(view)s order by id desc limit 1) as newest
where finished_at is null
