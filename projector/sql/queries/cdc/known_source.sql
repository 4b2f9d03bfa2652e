-- The slot and the server of the generation in force, and the server that this is.
select slot_name, system_identifier, (select system_identifier::text from pg_control_system())
from mana_ai.cdc_sources
where consistent_lsn is not null
order by generation desc
limit 1
