"""Which transactions a snapshot shows, as the stream asks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from projector.cdc.visibility import Snapshot, Visibility

AGES = st.integers(-(1 << 31) + 1, (1 << 31) - 1)


def test_a_snapshot_as_the_server_prints_it() -> None:
    assert Snapshot.parse("10:20:10,14,15") == Snapshot(20, frozenset({10, 14, 15}))
    assert Snapshot.parse("10:10:") == Snapshot(10, frozenset())


def test_what_runs_and_what_is_younger_is_not_seen() -> None:
    visibility = Visibility(Snapshot(20, frozenset({10, 14})))
    for xid in (9, 10, 11, 14, 19, 20, 25):
        visibility.read(xid)
    assert visibility.unseen == [10, 14, 20, 25]
    visibility.see(Snapshot(25, frozenset({14, 23})))
    assert visibility.unseen == [14, 25]
    visibility.see(Snapshot(26, frozenset()))
    assert visibility.unseen == []


@given(epoch=st.integers(1, 1000), low=st.integers(0, (1 << 32) - 1), age=AGES)
def test_the_id_is_widened_around_the_snapshot(epoch: int, low: int, age: int) -> None:
    """Of an id the stream tells 32 bits, and the counter may have gone round in between."""
    xmax = (epoch << 32) + low
    xid = xmax + age
    visibility = Visibility(Snapshot(xmax, frozenset({xid} if age < 0 else ())))
    visibility.read(xid & 0xFFFF_FFFF)
    assert visibility.unseen == [xid]
    visibility.see(Snapshot(max(xmax, xid + 1), frozenset()))
    assert visibility.unseen == []
