create temporary table if not exists fill_seen (id uuid not null)
