-- The users of whom a view's table has rows that come from one app.
select distinct {user_id} from {target} as kept where {app_id} = %(app)s
