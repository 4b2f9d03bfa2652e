"""Who may come in: callers who know the key, not too many at once, and none too often."""

from __future__ import annotations

import hmac
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MOST_PEERS = 10_000
BURST_S = 1.0
"""So many seconds' worth of requests may come at once."""


class Key:
    """The service key, as a bearer token or in X-API-Key or X-Service-Key."""

    def __init__(self, key: str) -> None:
        self._key = key.encode()

    def opens(self, headers: Mapping[str, str]) -> bool:
        """Takes as long whatever is given."""
        given = headers.get("X-API-Key") or headers.get("X-Service-Key") or ""
        if not given:
            scheme, _, token = headers.get("Authorization", "").partition(" ")
            given = token.strip() if scheme.lower() == "bearer" else ""
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._key)


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at: float


class Rate:
    """At most so many requests a second of each peer; 0: any number."""

    def __init__(self, per_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._most = max(per_s * BURST_S, 1.0)
        self._clock = clock
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def wait_s(self, peer: str) -> float:
        """0 when a request may come now, which is then counted; else how long until one may."""
        if not self._per_s:
            return 0.0
        now = self._clock()
        bucket = self._buckets.pop(peer, None) or _Bucket(self._most, now)
        bucket.tokens = min(self._most, bucket.tokens + (now - bucket.at) * self._per_s)
        bucket.at = now
        self._buckets[peer] = bucket
        if len(self._buckets) > MOST_PEERS:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return (1 - bucket.tokens) / self._per_s
        bucket.tokens -= 1
        return 0.0
