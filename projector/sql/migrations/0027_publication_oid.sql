-- The publication that the stream last read through. One that was dropped and made anew has another oid: what committed
-- while there was none was decoded as nothing. Null until the first start of a stream that keeps it.
alter table mana_ai.cdc_sources add column publication_oid oid;
