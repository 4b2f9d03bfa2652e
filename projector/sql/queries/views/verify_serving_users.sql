select {keys}, {document} as document, kept.state
from {serving} as kept
where (%(users)s::text[] is null or kept.user_id = any (%(users)s))
  and (%(after)s::text is null or kept.user_id > %(after)s)
  and (%(upto)s::text is null or kept.user_id <= %(upto)s)
