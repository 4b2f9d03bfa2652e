-- When a fill began to publish, or went on after a stop, and after how many rows: its rate is that of the time since.
alter table mana_ai.cdc_fills
    add column resumed_at timestamptz,
    add column resumed_rows bigint not null default 0;
