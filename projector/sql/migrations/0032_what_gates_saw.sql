-- Which version of its mission and agent a worker saw that claimed a run: a held run is looked at again when a row is of
-- another one. By time that cannot be told: a change may be older than the look and reach the view after it.
-- A version is the transaction that wrote the row, null: there was none. A rebuilt view has other versions of the same
-- rows, so its promotion has held runs looked at once.

do $$
declare
    name text;
    target text;
    columns text;
begin
    for name, target in
        select g.view, g.target from mana_ai.view_generations g where g.target in ('mission_snapshots', 'agent_snapshots')
    loop
        select string_agg(quote_ident(attname), ', ' order by attnum) into columns
        from pg_attribute
        where attrelid = format('mana_ai.%I', target)::regclass and attnum > 0 and not attisdropped;
        execute format(
            'create or replace view mana_ai.%1$I with (security_invoker = true) as '
            'select %2$s, xmin as version from mana_ai.%3$I '
            'where (select serving from mana_ai.view_generations where view = %4$L) = 1 union all '
            'select %2$s, xmin as version from mana_ai.%5$I '
            'where (select serving from mana_ai.view_generations where view = %4$L) = 2',
            target, columns, target || '_1', name, target || '_2');
    end loop;
end
$$;

alter table mana_ai.mission_runs
    add column seen_mission xid,
    add column seen_agent xid,
    add column seen_changed_at timestamptz;     -- when others than ourselves had changed the mission last

-- What a run says was decided of it is what its state follows from, and what only a written run has, no other has.
alter table mana_ai.mission_runs
    add constraint stopped_by_a_decision check (state not in ('held', 'cancelled') or decision is not null),
    add constraint held_by_no_consent
        check (state <> 'held' or decision not in ('admitted', 'retry', 'planned', 'ran', 'failed', 'write-refused')),
    add constraint planned_as_plan_or_failure
        check (state <> 'planned' or (decision is not null and decision in ('planned', 'failed', 'write-refused'))),
    add constraint written_as_plan_or_failure
        check (state <> 'written' or (decision is not null and decision in ('ran', 'failed'))),
    add constraint position_when_written check (written_lsn is null or state = 'written'),
    add constraint restored_over_when_restored check (restored_over is null or restores > 0);
