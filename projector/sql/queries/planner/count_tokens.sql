-- What was spent for a mission beside its runs.
insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)
values (%(user_id)s, %(agent_id)s, %(mission_id)s, %(run_id)s, %(tokens)s)
