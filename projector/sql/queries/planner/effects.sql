-- Whether effects are stopped, and what was spent since the day began (UTC).
select stopped_at, reason,
       coalesce((select tokens from mana_ai.token_days where day = (now() at time zone 'UTC')::date), 0) as spent
from mana_ai.effects
