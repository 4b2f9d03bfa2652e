-- `joined`: every record that the view or the log has, each with what is compared, null on a side that lacks it.
-- `state` is what the row of the view holds, for those that differ.
with chosen as materialized (
{chosen}
),
log as (
    select user_id, app_id, table_name, record_id, {folded} as document
    from (
{fold}
    ) as folded
),
serving as (
{serving}
),
joined as (
    select {identity}, serving.document as serving, log.document as log, serving.state
    from serving full join log using ({identity})
)
