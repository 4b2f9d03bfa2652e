-- Who answered a call of the model, how long that took, what it cost and what was tried before: kept when the answer goes.

alter table mana_ai.run_steps add column evidence jsonb check (octet_length(evidence::text) < 10000);
