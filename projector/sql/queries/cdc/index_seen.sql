create index if not exists fill_seen_id on fill_seen (id)
