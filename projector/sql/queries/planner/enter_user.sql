-- The rest of the transaction is held to one user's rows; says whether that is so for each table it touches.
select set_config('app.current_user_id', %(user_id)s, true),
       row_security_active('sync_changes') and row_security_active('mana_ai.mission_snapshots_1')
       and row_security_active('mana_ai.mission_snapshots_2')
       and row_security_active('mana_ai.mission_iterations_1')
       and row_security_active('mana_ai.mission_iterations_2')
       and row_security_active('mana_ai.mission_runs') and row_security_active('mana_ai.user_zones'),
       set_config('lock_timeout', '10s', true)
