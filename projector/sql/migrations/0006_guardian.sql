-- What holds a slot back is usually another user's transaction. Without pg_read_all_stats a role sees its process
-- and user, and neither its age nor its state. projector_cdc must inherit what it is granted: it is a member of
-- nothing else.
do $$
begin
    if not pg_has_role('projector_cdc', 'pg_read_all_stats', 'usage') then
        alter role projector_cdc inherit;
        grant pg_read_all_stats to projector_cdc;
    end if;
exception
    when insufficient_privilege then
        raise warning 'this login may not let projector_cdc see the transactions of other users (%): have a superuser run "alter role projector_cdc inherit; grant pg_read_all_stats to projector_cdc"', sqlerrm;
    when internal_error then
        -- Roles belong to the cluster: another database's migration changed this one at the same moment.
        null;
end
$$;
