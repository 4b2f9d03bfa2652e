-- Whether a worker still had the positions that it has moved. Raised by the server when it had not, so that positions and
-- rows can go in one statement: nobody has to wait for the outcome of the swap before the rows are sent.
create function mana_ai.require_moved(moved bigint, wanted int) returns boolean
language plpgsql as $$
begin
    if moved is distinct from wanted then
        raise serialization_failure using message = format('moved %s of %s positions', moved, wanted);
    end if;
    return true;
end $$;
