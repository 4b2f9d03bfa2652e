joined as (
    select {identity},
           case when serving.record is not null then jsonb_build_object(
               'record', serving.record, 'deleted', serving.deleted, 'complete', serving.complete,
               'writes', serving.writes) end as serving,
           case when log.record is not null then jsonb_build_object(
               'record', log.record, 'deleted', log.deleted, 'complete', log.complete,
               'writes', log.writes) end as log
    from serving full join log using ({identity})
)
select totals.rows, {identity}, serving::text, log::text
from (select count(*) as rows from joined) as totals
left join (select * from joined where serving is distinct from log) as differing on true
order by {identity}
