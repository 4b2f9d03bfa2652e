-- The rest of the session reads what one user wrote; says whether it is held to that.
select set_config('app.current_user_id', %(user_id)s, false),
       row_security_active('mana_ai.mission_runs') and row_security_active('mana_ai.run_steps')
