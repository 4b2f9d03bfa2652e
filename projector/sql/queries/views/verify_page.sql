-- The next page of users: (last user of the page, the user who would make it too long).
-- The last is null when that user is the first: its records need pages of their own. Both are null at the end.
with cut as materialized (
    select least(
        (select user_id from sync_changes
         where (%(after)s::text is null or user_id > %(after)s) and app_id = any (%(apps)s)
           and (%(users)s::text[] is null or user_id = any (%(users)s))
         order by user_id offset %(size)s limit 1),
        (select user_id from {serving}
         where (%(after)s::text is null or user_id > %(after)s)
           and (%(users)s::text[] is null or user_id = any (%(users)s))
         order by user_id offset %(size)s limit 1)
    ) as user_id
)
select greatest(
    (select max(user_id) from sync_changes
     where (%(after)s::text is null or user_id > %(after)s) and app_id = any (%(apps)s)
       and (%(users)s::text[] is null or user_id = any (%(users)s))
       and ((select user_id from cut) is null or user_id < (select user_id from cut))),
    (select max(user_id) from {serving}
     where (%(after)s::text is null or user_id > %(after)s)
       and (%(users)s::text[] is null or user_id = any (%(users)s))
       and ((select user_id from cut) is null or user_id < (select user_id from cut)))
), (select user_id from cut)
