-- What the schema looked like when it was last migrated, so that a change made by hand is noticed. Each row says how
-- its object is made; `projector doctor` compares them with the catalogue, and `projector migrate` writes them.
create table mana_ai.schema_objects (
    kind text not null,
    relation text not null,         -- the table or view that it belongs to, else empty
    name text not null,
    definition text not null,
    primary key (kind, relation, name)
);

grant select on mana_ai.schema_objects to
    projector_cdc, projector_engine, projector_planner, projector_sink, projector_reader;

-- Where a fill stands names a user, and only those who work for all users ask for it.
alter table mana_ai.cdc_fills enable row level security;
alter table mana_ai.cdc_fills force row level security;
revoke select on mana_ai.cdc_fills from projector_planner, projector_reader;
