insert into mana_ai.view_rebuilds (view, id, state, source) values (%(view)s, gen_random_uuid(), 'filling', %(source)s)
on conflict (view) do update set
    id = excluded.id, state = excluded.state, source = excluded.source, events = 0, total = 0, changes = 0,
    seconds = 0, error = null, after_user = '', started_at = now(), updated_at = now()
