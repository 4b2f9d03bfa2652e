"""A timestamptz as Postgres prints it (DateStyle ISO, time zone UTC), turned into ISO 8601 with six digits."""

from __future__ import annotations

import re

_PRINTED = re.compile(rb"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?\+00")


def iso_instant(printed: bytes) -> bytes:
    """`2026-11-25 18:30:27.12+00` becomes `2026-11-25T18:30:27.120000Z`.

    What has no such form (`infinity`, years before 1 or after 9999) stays as it is: a reader must decide about it.
    """
    found = _PRINTED.fullmatch(printed)
    if found is None:
        return printed
    date, time, fraction = found.groups(b"")
    return b"%bT%b.%bZ" % (date, time, fraction.ljust(6, b"0"))
