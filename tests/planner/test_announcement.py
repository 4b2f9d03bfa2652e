from __future__ import annotations

from uuid import UUID

import orjson
import pytest

from projector.planner.announcement import run_of

RUN = "0d2f4a3e-6f0e-5d3c-9a35-0f4b1f2f7f11"


def test_an_announcement_names_a_run_and_its_user():
    assert run_of(orjson.dumps({"run_id": RUN, "user_id": "Änne"})) == (UUID(RUN), "Änne")


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"7",
        b"\xff",
        orjson.dumps([RUN]),
        orjson.dumps({"run_id": RUN}),
        orjson.dumps({"run_id": RUN, "user_id": ""}),
        orjson.dumps({"run_id": RUN, "user_id": ["a"]}),
        orjson.dumps({"run_id": RUN, "user_id": "a\0"}),
        orjson.dumps({"run_id": 7, "user_id": "a"}),
        orjson.dumps({"run_id": RUN[:-1], "user_id": "a"}),
        orjson.dumps({"run_id": "{" * 100 + RUN, "user_id": "a"}),
        orjson.dumps({"run_id": RUN, "user_id": "a", "more": 1}),
        b'{"run_id": "%s", "user_id": "\\ud800"}' % RUN.encode(),
    ],
)
def test_nothing_else_names_one(value):
    assert run_of(value) is None
