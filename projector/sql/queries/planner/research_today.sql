-- How many deep research jobs were begun since midnight, UTC. Asked under the lock that who begins one holds.
select count(*)
from mana_ai.mission_runs
where research_at >= date_trunc('day', now(), 'UTC')
