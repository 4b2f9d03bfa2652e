-- A mission at this moment: what the view stored of it, whether the log holds anything of it, the clock, its user's own
-- zone, how often its runs failed, and the first page of what the log may hold beyond the view. A row may commit long
-- after its created_at was taken; a transaction older than a day is not waited for.
select stored.state,
       exists (
           select from sync_changes
           where user_id = wanted.user_id and app_id = %(app_id)s and table_name = %(table_name)s
             and record_id = wanted.mission_id),
       (extract(epoch from clock_timestamp()) * 1000000)::bigint,
       (select zone from mana_ai.user_zones where user_id = wanted.user_id),
       failed.in_row, failed.latest_at, failed.reason,
       page.list, page.last_at, page.last_id
from (select %(user_id)s::text as user_id, %(mission_id)s::text as mission_id) wanted
left join lateral (
    select state from mana_ai.mission_snapshots
    where user_id = wanted.user_id and mission_id = wanted.mission_id
    limit 1
) stored on true
cross join lateral (
    select coalesce(
        timestamptz 'epoch' + (stored.state ->> 'n')::bigint * interval '1 microsecond' - interval '1 day',
        '-infinity') as at
) since
cross join lateral ({rows}) page
cross join lateral ({failures}) failed
