-- Whether effects are stopped, and what was spent since the day began (UTC; null unless it is asked for).
select stopped_at, reason,
       case when %(count)s then
           (select coalesce(sum(tokens_used), 0)::bigint from mana_ai.token_usage
            where ts >= date_trunc('day', now(), 'UTC'))
       end
from mana_ai.effects
