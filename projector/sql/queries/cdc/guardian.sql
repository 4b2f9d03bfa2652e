-- One look at a slot: how much WAL it keeps, who reads it, and the oldest transaction that it must keep WAL for.
-- What only newer servers know is read through jsonb, so that the same text runs on 15.
select extract(epoch from clock_timestamp())::float8 as at,
       pg_wal_lsn_diff(now_at.lsn, '0/0')::bigint as lsn,
       pg_wal_lsn_diff(slot.restart_lsn, '0/0')::bigint as restart,
       pg_wal_lsn_diff(slot.confirmed_flush_lsn, '0/0')::bigint as confirmed,
       coalesce(slot.wal_status, '') as wal_status,
       slot.safe_wal_size as safe_bytes,
       to_jsonb(slot) ->> 'invalidation_reason' as invalidation,
       slot.active_pid,
       case when not slot.active
            then extract(epoch from (to_jsonb(slot) ->> 'inactive_since')::timestamptz)::float8
       end as inactive_since,
       extract(epoch from coalesce(current_setting('idle_replication_slot_timeout', true), '0')::interval)::float8
           as idle_timeout,
       (select lock.pid
        from pg_locks as lock
        where lock.locktype = 'advisory' and lock.granted and lock.objsubid = 2
          and lock.database = (select oid from pg_database where datname = current_database())
          and lock.classid = hashtext('projector writer')::oid and lock.objid = hashtext(slot.slot_name)::oid
        limit 1) as writer_pid,
       reader.usename::text as reader_user,
       reader.application_name as reader_application,
       reader.reply_time::text as reply,
       holder.pid as holder_pid,
       holder.gid as holder_gid,
       holder.xid::text as holder_xid,
       holder.usename::text as holder_user,
       holder.application_name as holder_application,
       holder.datname::text as holder_database,
       holder.state as holder_state,
       extract(epoch from clock_timestamp() - holder.began)::float8 as holder_seconds
from pg_replication_slots as slot
cross join lateral (
    select case when pg_is_in_recovery() then pg_last_wal_replay_lsn() else pg_current_wal_insert_lsn() end as lsn
) as now_at
left join pg_stat_replication as reader on reader.pid = slot.active_pid
-- Transactions of every database: the WAL is one for all of them.
left join lateral (
    select *
    from (
        select pid, null::text as gid, backend_xid as xid, usename, application_name, datname, state,
               xact_start as began
        from pg_stat_activity
        where backend_xid is not null and pid <> pg_backend_pid()
        union all
        select null, gid, transaction, owner, null, database, 'prepared', prepared
        from pg_prepared_xacts
    ) as open_one
    order by age(xid) desc
    limit 1
) as holder on true
where slot.slot_name = %s
