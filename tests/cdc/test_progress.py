"""What may be confirmed: never an LSN from inside a transaction, never one below which something is outstanding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from projector.cdc.progress import Progress


def test_a_transaction_is_confirmed_when_all_its_records_are_acknowledged() -> None:
    progress = Progress(100)
    progress.begin()
    first, second = progress.hold(), progress.hold()
    progress.commit(200)
    assert progress.flushed == 100
    progress.release(second)
    assert progress.flushed == 100
    progress.release(first)
    assert progress.flushed == 200


def test_acknowledgements_inside_a_transaction_confirm_nothing_of_it() -> None:
    progress = Progress(100)
    progress.begin()
    progress.release(progress.hold())
    assert progress.flushed == 100
    progress.idle_at(150)
    assert progress.flushed == 100


def test_a_keepalive_counts_only_when_nothing_is_outstanding() -> None:
    progress = Progress(100)
    progress.begin()
    token = progress.hold()
    progress.commit(200)
    progress.idle_at(300)
    assert progress.flushed == 100
    progress.release(token)
    assert progress.flushed == 200
    progress.idle_at(300)
    assert progress.flushed == 300


def test_what_is_confirmed_never_falls() -> None:
    progress = Progress(500)
    progress.idle_at(400)  # the server reads again from before what was confirmed
    assert progress.flushed == 500


@given(st.data())
def test_the_confirmed_lsn_is_the_end_of_the_last_transaction_with_nothing_outstanding(data: st.DataObject) -> None:
    progress = Progress(0)
    outstanding: dict[int, int] = {}  # token → number of its transaction
    ends = [0]
    for _ in range(data.draw(st.integers(1, 8))):
        progress.begin()
        for _ in range(data.draw(st.integers(0, 4))):
            outstanding[progress.hold()] = len(ends)
            if outstanding and data.draw(st.booleans()):
                token = data.draw(st.sampled_from(sorted(outstanding)))
                del outstanding[token]
                progress.release(token)
            assert progress.flushed == ends[min([*outstanding.values(), len(ends)]) - 1]
        ends.append(ends[-1] + 10)
        progress.commit(ends[-1])
        assert progress.flushed == ends[min([*outstanding.values(), len(ends)]) - 1]
