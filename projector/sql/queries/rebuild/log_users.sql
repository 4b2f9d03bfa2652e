-- The next users in order of whom the log has records of these apps.
select distinct user_id from sync_changes
where app_id = any (%(apps)s) and user_id > %(after)s and user_id <> ''
order by user_id
limit %(limit)s
