from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.devices import REMOVED, difference
from projector.devices.difference import write_through

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.sampled_from(["", "x", "y"]))
NAMES = st.sampled_from(["a", "b", "c"])
OBJECTS = st.dictionaries(
    NAMES,
    st.recursive(SCALARS, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3)),
    max_size=3,
)


@pytest.mark.parametrize(
    ("before", "after", "reported"),
    [
        ({}, {}, {}),
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 1.0}, {}),
        ({"a": 1}, {"a": True}, {"a": True}),
        ({"a": 0}, {"a": False}, {"a": False}),
        ({"a": 1}, {"a": 2, "b": None}, {"a": 2, "b": None}),
        ({"a": 1}, {}, {"a": REMOVED}),
        ({"a": None}, {"a": None}, {}),
        ({"c": {"h": 9, "m": 30}}, {"c": {"h": 7}}, {"c.h": 7, "c.m": REMOVED}),
        ({"c": {"h": 9}}, {"c": {"h": 9, "m": 1}}, {"c.m": 1}),
        ({"c": {"x": {"y": 1}}}, {"c": {"x": {"y": 2}}}, {"c.x.y": 2}),
        ({"c": {"x": {"y": 1}}}, {"c": {"x": 5}}, {"c.x": 5}),
        ({"c": None}, {"c": {"h": 1}}, {"c": {"h": 1}}),
        ({"c": {"h": 1}}, {"c": None}, {"c": None}),
        ({"c": {"h": 1}}, {"c": [1]}, {"c": [1]}),
        ({"c": [1]}, {"c": {"h": 1}}, {"c": {"h": 1}}),
        ({"c": {}}, {"c": {}}, {}),
    ],
)
def test_a_difference_names_paths_where_both_sides_are_objects(before, after, reported):
    assert difference(before, after) == reported


def test_every_array_rides_along_unchanged_at_any_depth_of_objects():
    record = {"title": "a", "inputs": [], "grant": {"derivation": {"recordIds": ["r"], "version": "v1"}}}
    assert difference(record, {**record, "title": "b"}) == {
        "title": "b",
        "inputs": [],
        "grant.derivation.recordIds": ["r"],
    }


@given(OBJECTS, OBJECTS)
def test_written_through_a_difference_makes_the_one_into_the_other(before, after):
    record = before
    for key, value in difference(before, after).items():
        write_through(record, key, value)
    assert difference(record, after).keys() <= _arrays(after)


@pytest.mark.parametrize("falsy", [None, False, 0, ""])
def test_a_falsy_head_becomes_an_object(falsy):
    record = {"a": falsy}
    write_through(record, "a.b.c", 1)
    assert record == {"a": {"b": {"c": 1}}}


@pytest.mark.parametrize("solid", ["x", 1, True, [], [1]])
def test_a_truthy_head_that_is_no_object_swallows_the_write(solid):
    record = {"a": solid}
    write_through(record, "a.b", 1)
    assert record == {"a": solid}


def test_a_key_with_an_empty_segment_is_literal():
    record: dict[str, object] = {}
    for key in ("", "a.", ".a", "a..b"):
        write_through(record, key, 1)
    assert record == {"": 1, "a.": 1, ".a": 1, "a..b": 1}


def test_removed_takes_the_property_away():
    record = {"a": {"b": 1, "c": 2}}
    write_through(record, "a.b", REMOVED)
    write_through(record, "x", REMOVED)
    assert record == {"a": {"c": 2}}


def _arrays(value: dict[str, object], prefix: str = "") -> set[str]:
    found = set()
    for name, item in value.items():
        if isinstance(item, list):
            found.add(prefix + name)
        elif isinstance(item, dict):
            found |= _arrays(item, f"{prefix}{name}.")
    return found
