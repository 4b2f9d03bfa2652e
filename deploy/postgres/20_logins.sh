#!/bin/sh
# The two logins of the compose file: the sync server's, which owns the log, and the streams', without superuser.
set -eu
psql -v ON_ERROR_STOP=1 -U postgres -d mana_sync \
    -v sync_password="$SYNC_PASSWORD" -v projector_password="$PROJECTOR_PASSWORD" <<'SQL'
create role sync_server login nosuperuser noinherit password :'sync_password';
create role projector login nosuperuser noinherit replication password :'projector_password';
alter table sync_changes owner to sync_server;
SQL
