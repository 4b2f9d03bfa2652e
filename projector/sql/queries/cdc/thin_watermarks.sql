-- Keeps every watermark of the last five minutes, one a minute for a day, one an hour for a month.
delete from mana_ai.cdc_watermarks w
where w.committed_at < now() - interval '5 minutes'
  and (w.committed_at < now() - interval '30 days'
       or exists (
           select from mana_ai.cdc_watermarks earlier
           where earlier.id < w.id
             and earlier.generation = w.generation
             and earlier.committed_at >= date_trunc(
                 case when w.committed_at < now() - interval '1 day' then 'hour' else 'minute' end, w.committed_at)
             and earlier.committed_at <= w.committed_at))
  and w.id <> (select max(id) from mana_ai.cdc_watermarks)
