-- A step may also be the summary that a part of the conversation is folded into, which costs what it costs.

alter table mana_ai.run_steps
    drop constraint run_steps_kind_check,
    drop constraint tools_cost_nothing,
    add constraint run_steps_kind_check check (kind in ('llm', 'tool', 'compact')),
    add constraint only_answers_cost check (kind <> 'tool' or prompt_tokens + completion_tokens = 0);
