insert into mana_ai.verify_runs (view, total) values (%(view)s, %(total)s) returning id
