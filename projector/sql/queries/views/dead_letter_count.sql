select 'cdc' as part, reason, count(*) from mana_ai.cdc_dead_letters group by reason
union all
select view, reason, count(*) from mana_ai.dead_letters group by view, reason
order by 1, 2
