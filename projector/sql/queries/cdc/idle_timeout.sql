-- A process may be paused between two statements of a transaction as well.
select set_config('idle_session_timeout', %(timeout)s, false),
       set_config('idle_in_transaction_session_timeout', %(timeout)s, false)
