-- A mission that is due as soon as its row is written, or nearly, wakes the schedulers. They look for due ones now and
-- then anyway.

create function mana_ai.tell_due() returns trigger language plpgsql set search_path = pg_catalog, pg_temp as $$
begin
    perform pg_notify('mana_ai_due', '');
    return null;
end
$$;

create trigger tell_due after insert or update on mana_ai.mission_snapshots_1
    for each row when (new.status = 'active' and new.complete and not new.deleted and new.next_run_at <= now() + interval '2 seconds')
    execute function mana_ai.tell_due();
create trigger tell_due after insert or update on mana_ai.mission_snapshots_2
    for each row when (new.status = 'active' and new.complete and not new.deleted and new.next_run_at <= now() + interval '2 seconds')
    execute function mana_ai.tell_due();
