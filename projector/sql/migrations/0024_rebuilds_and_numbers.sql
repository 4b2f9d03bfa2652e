-- How far a rebuild from the log has come names a user, and nobody but the engine asks.
alter table mana_ai.view_rebuilds enable row level security;
alter table mana_ai.view_rebuilds force row level security;
