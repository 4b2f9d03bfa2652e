-- How far a rebuild from the log has come names a user, and nobody but the engine asks.
alter table mana_ai.view_rebuilds enable row level security;
alter table mana_ai.view_rebuilds force row level security;

-- As in 0003, but for numbers that no double comes near: devices read them as zero, and a zero is falsy.
create or replace function mana_ai.fold_tree(top jsonb, deeper jsonb) returns jsonb
language plpgsql immutable parallel safe as $$
declare
    tree jsonb := coalesce(top, '{}');
    entry jsonb;
    path text[];
    head jsonb;
    swallowed boolean;
begin
    for entry in select value from jsonb_array_elements(coalesce(deeper, '[]')) with ordinality order by ordinality loop
        path := array(select value from jsonb_array_elements_text(entry -> 'path') with ordinality order by ordinality);
        swallowed := false;
        for depth in 1 .. cardinality(path) - 1 loop
            head := tree #> path[1:depth];
            -- The last is half of the smallest double.
            if head is null or head in ('null', 'false', '0', '""')
                or (jsonb_typeof(head) = 'number' and abs(head::numeric) < 2.4703282292062328e-324) then
                tree := jsonb_set(tree, path[1:depth], '{}');
            elsif jsonb_typeof(head) <> 'object' then
                swallowed := true;
                exit;
            end if;
        end loop;
        if not swallowed then
            tree := jsonb_set(tree, path, entry -> 'value');
        end if;
    end loop;
    return tree;
end
$$;
