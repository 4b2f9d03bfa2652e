"""A watermark: how far the topics go at a moment, as the publisher writes it and everybody may read it."""

from __future__ import annotations

from typing import Final, NamedTuple

import orjson

from projector.log.place import lsn_text, parse_lsn

KEY: Final = b"cdc"
"""Key of every record of the watermark topic, so that compaction keeps the newest."""

Ends = dict[str, list[int]]
"""Topic → next offset of each partition."""


class Watermark(NamedTuple):
    """Every record of a transaction that ended at or below `lsn` of generation `source` lies below `ends`.

    `committed_at` is in microseconds since 1970 by the database's clock: nothing that committed earlier is missing.
    `beat` numbers the heartbeat that it answers, None when the stream merely ran dry.
    """

    source: int
    lsn: int
    committed_at: int
    beat: int | None
    ends: Ends


def encode(watermark: Watermark) -> bytes:
    """The value of its record: a JSON object with the fields by name, the LSN as PostgreSQL writes it."""
    return orjson.dumps(watermark._asdict() | {"lsn": lsn_text(watermark.lsn)})


def decode(value: bytes) -> Watermark:
    """The inverse of `encode`; raises KeyError, TypeError or ValueError for anything else."""
    fields = orjson.loads(value)
    return Watermark(
        int(fields["source"]), parse_lsn(fields["lsn"]), int(fields["committed_at"]), fields["beat"], fields["ends"]
    )
