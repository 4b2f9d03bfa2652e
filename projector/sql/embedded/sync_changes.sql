-- The log as the sync server creates it. The projector creates it only in its embedded stack and in tests;
-- elsewhere it belongs to the sync server.
create table if not exists sync_changes (
    id uuid primary key default gen_random_uuid(),
    app_id text not null,
    table_name text not null,
    record_id text not null,
    user_id text not null,
    op text not null check (op in ('insert', 'update', 'delete')),
    data jsonb,
    field_meta jsonb default '{}',
    client_id text not null,
    created_at timestamptz not null default now(),
    schema_version int not null default 1,
    actor jsonb,
    origin text,
    space_id text
);

create index if not exists idx_sync_changes_user_app on sync_changes (user_id, app_id, created_at);
create index if not exists idx_sync_changes_table_record on sync_changes (table_name, record_id, created_at);
create index if not exists idx_sync_changes_since on sync_changes (user_id, app_id, table_name, created_at);
create index if not exists idx_sync_changes_user_space_app_since
    on sync_changes (user_id, space_id, app_id, created_at) where space_id is not null;

alter table sync_changes enable row level security;
alter table sync_changes force row level security;

drop policy if exists sync_changes_user_isolation on sync_changes;
create policy sync_changes_user_isolation on sync_changes
    using (user_id = current_setting('app.current_user_id', true))
    with check (user_id = current_setting('app.current_user_id', true));

drop policy if exists sync_changes_space_member_read on sync_changes;
create policy sync_changes_space_member_read on sync_changes for select
    using (space_id is not null
           and space_id = any (string_to_array(coalesce(current_setting('app.current_user_space_ids', true), ''), ',')));
