-- A mission that is due as soon as its row is written, or before long, wakes the schedulers. They look for due ones now
-- and then anyway, at least every ten minutes. What was due before and stands there wakes nobody with each edit.

create function mana_ai.tell_due() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('mana_ai_due', '');
    return null;
end
$$;

do $$
declare
    generation text;
    due text := $due$new.status = 'active' and new.complete and not new.deleted
        and new.next_run_at <= now() + interval '10 minutes'$due$;
    changed text := '(new.next_run_at, new.status, new.complete, new.deleted) is distinct from '
        '(old.next_run_at, old.status, old.complete, old.deleted)';
begin
    foreach generation in array array['mission_snapshots_1', 'mission_snapshots_2'] loop
        execute format('create trigger tell_due after insert on mana_ai.%I for each row when (%s) '
                       'execute function mana_ai.tell_due()', generation, due);
        execute format('create trigger tell_due_again after update on mana_ai.%I for each row when (%s and %s) '
                       'execute function mana_ai.tell_due()', generation, due, changed);
    end loop;
end
$$;
