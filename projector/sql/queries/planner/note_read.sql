insert into mana_ai.content_reads (user_id, run_id, reader) values (%(user_id)s, %(run_id)s, session_user)
