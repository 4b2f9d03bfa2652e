-- Which of these changes were laid aside, by whom and why.
select change_id, 'dead letter of the view: ' || reason from mana_ai.dead_letters
where view = %(view)s and change_id = any (%(change_ids)s)
union all
select change_id, 'dead letter of the change stream: ' || reason from mana_ai.cdc_dead_letters
where change_id = any (%(change_ids)s)
