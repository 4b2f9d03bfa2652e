-- Deletes some entries of who read what users wrote.
delete from mana_ai.content_reads
where id in (
    select id
    from mana_ai.content_reads
    where read_at < %(before)s
    order by read_at
    limit %(limit)s)
