"""Which deletes count: a device passes over one that the log has before the row that made the record.

The row that made the record is the earliest insert, or update with a stamp. As more rows come, an earlier one may be
found, so a delete that was passed over may count after all. Of the deletes passed over, those are kept that could still
win then: nothing that counts beats them, and none of later order has as large an instant. Mostly that is none or one.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter

from projector.fold.stamps import Order, Write

_ORDER = itemgetter(1, 2)


def settle(
    first: Order | None, known: Write | None, deletes: Iterable[Write]
) -> tuple[Write | None, tuple[Write, ...]]:
    """The write of `deletedAt` that wins, and the deletes passed over that are kept, the largest instant last.

    `first` is the row that made the record, None when none did; `known` is the winner so far.
    """
    kept: list[Write] = []
    for write in sorted(deletes, key=_ORDER, reverse=True):
        if known is not None and not write.beats(known):
            continue
        if first is not None and write.order > first:
            known = write
        elif not kept or write.instant > kept[-1].instant:
            kept.append(write)
    return known, tuple(kept)
