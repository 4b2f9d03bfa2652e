select generation, system_identifier, slot_name, consistent_lsn::text, slot_ready, timeline, beat, publication_oid
from mana_ai.cdc_sources
order by generation desc
limit 1
