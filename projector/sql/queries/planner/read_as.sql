-- The rest of the transaction reads records as one user; says whether that is so.
select set_config('app.current_user_id', %(user_id)s, true),
       row_security_active('mana_ai.record_snapshots_1') and row_security_active('mana_ai.record_snapshots_2')
