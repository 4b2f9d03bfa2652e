"""From the write-ahead log to Kafka: the only way in which anything reaches a topic.

`pgoutput` and `wire` parse what Postgres sends, `rows` writes it as JSON, `translate` follows the transactions,
`publisher` keeps one request per partition in flight, `progress` knows what may be confirmed, `pump` drives them.
"""

from __future__ import annotations
