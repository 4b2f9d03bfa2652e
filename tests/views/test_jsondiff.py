from __future__ import annotations

import orjson

from projector.views.differences import show
from projector.views.jsondiff import absent, first_difference


def test_numbers_are_compared_as_devices_hold_them():
    assert first_difference({"a": 1.0, "b": [1e22]}, {"a": 1, "b": [10000000000000000000000]}) is None
    found = first_difference({"a": True}, {"a": 1})
    assert found is not None
    assert (found.path, found.serving, found.log) == (("a",), True, 1)
    shorter = first_difference({"a": [1]}, {"a": [1, 2]})
    assert shorter is not None
    assert (shorter.path, shorter.serving, shorter.log) == (("a", 1), absent, 2)


def test_ciphertext_and_keys_are_shown_by_their_length_alone():
    value = {"title": "enc:1:abcd", "grant": {"wrappedKey": "plain", "tables": ["notes"]}, "list": ["enc:1:xyz"]}
    assert orjson.loads(show(value)) == {
        "title": "enc:1:… (10 bytes)",
        "grant": {"wrappedKey": "… (5 bytes)", "tables": ["notes"]},
        "list": ["enc:1:… (9 bytes)"],
    }
