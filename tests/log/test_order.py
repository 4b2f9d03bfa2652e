"""Whether a record is above all that came before it in its partition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from projector.log.order import PartitionOrder
from projector.log.place import Place, parse_place

PLACES = st.builds(Place, st.integers(1, 3), st.integers(0, 1 << 64), st.integers(0, 9))


@given(PLACES)
def test_a_place_is_read_as_it_is_written(place: Place) -> None:
    assert parse_place(str(place)) == place


@given(st.lists(PLACES, unique=True))
def test_what_comes_in_order_is_new_and_comes_again_as_old(places: list[Place]) -> None:
    order = PartitionOrder()
    assert all(order.grows(place, filled=False) for place in sorted(places))
    assert not any(order.grows(place, filled=False) for place in places)
    assert order.reached == max(places, default=None)


def test_the_records_of_a_fill_share_a_place_before_what_committed_there() -> None:
    order = PartitionOrder()
    fill = Place(1, 100, 0)
    assert order.grows(Place(1, 99, 7), filled=False)
    assert order.grows(fill, filled=True)
    assert order.grows(fill, filled=True)
    assert order.grows(Place(1, 100, 0), filled=False)
    assert not order.grows(fill, filled=True)
    assert order.grows(Place(2, 5, 0), filled=True)


def test_it_goes_on_where_another_was() -> None:
    before = PartitionOrder()
    before.grows(Place(1, 100, 3), filled=True)
    after = PartitionOrder(before.reached)
    assert after.grows(Place(1, 100, 3), filled=True)
    assert after.grows(Place(1, 100, 0), filled=False)
    assert not after.grows(Place(1, 99, 0), filled=False)
