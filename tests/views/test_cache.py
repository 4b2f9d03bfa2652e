from __future__ import annotations

from projector.fold import RECORD_FOLD
from projector.views.cache import Cache
from projector.views.held import Held


def identity(number: int) -> tuple[str, str, str, str]:
    return "u1", "ai", "aiMissions", f"m{number}"


def held(size: int) -> Held:
    return Held(RECORD_FOLD, RECORD_FOLD.empty(), size=size)


def test_a_cache_holds_no_more_than_its_limit_and_drops_what_was_used_longest_ago():
    cache = Cache(100)
    for number in range(10):
        cache.put(identity(number), held(10))
    used = cache.take(identity(0))
    assert used is not None
    cache.put(identity(0), used)
    cache.put(identity(10), held(25))
    assert [number for number in range(11) if cache.take(identity(number)) is not None] == [0, 4, 5, 6, 7, 8, 9, 10]


def test_a_record_that_was_taken_or_has_grown_counts_as_it_is_now():
    cache = Cache(100)
    for _ in range(50):
        cache.put(identity(1), held(40))
        cache.put(identity(2), held(60))
        assert len(cache) == 2
        assert cache.take(identity(1)) is not None
    cache.put(identity(1), held(41))
    assert (cache.take(identity(2)), len(cache)) == (None, 1)
    cache.put(identity(3), held(101))
    assert len(cache) == 0
