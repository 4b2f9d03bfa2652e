select pg_get_expr(r.prqual, r.prrelid),
       p.pubinsert,
       p.pubdelete,
       p.pubtruncate,
       p.pubupdate,
       (select count(*) from pg_publication_tables t where t.pubname = p.pubname),
       p.oid
from pg_publication p
left join pg_publication_rel r on r.prpubid = p.oid and r.prrelid = 'sync_changes'::regclass
where p.pubname = %s
