-- What a run may still spend of what it reserved; no row once its lease is lost.
select reserved_tokens
from mana_ai.mission_runs
where run_id = %(run_id)s and lease_owner = %(owner)s and state = 'running' and admitted_at is not null
