-- Effects happen again: runs held for their sake are looked at now.
update mana_ai.mission_runs
set next_attempt_at = now(), updated_at = now()
where state = 'held' and decision in ('skipped-stopped', 'skipped-spend-cap') and next_attempt_at > now()
