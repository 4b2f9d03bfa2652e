create temporary table if not exists fill_seen (
    id uuid not null, erased bool not null, topic text not null, partition int not null, place bigint not null
)
