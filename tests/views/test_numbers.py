"""Numbers of the log that no device can hold: a JSON number may be any, theirs are doubles."""

from __future__ import annotations

import orjson
import pytest

from projector.views import rebuild
from projector.views.declared import MISSION_ITERATIONS, MISSIONS
from projector.views.history import read_history
from projector.views.verify import verify
from tests.views.log import row, running

LARGEST, TOO_LARGE = "1.7976931348623158e308", "1.797693134862315808e308"
"""Next to each other on both sides of what rounds to the largest double."""
SMALLEST, TOO_SMALL = "2.4703282292062328e-324", "2.4703282292062327e-324"
"""Likewise of what rounds to the smallest double but zero."""


def written(digits: str) -> orjson.Fragment:
    """The number as somebody wrote it into the log."""
    return orjson.Fragment(digits)


async def records(log, table="mission_snapshots"):
    rows = await log.admin.execute(f"select mission_id, record from mana_ai.{table}")  # noqa: S608
    return dict(await rows.fetchall())


@pytest.mark.parametrize("digits", ["1e400", "-1e400", "1" + "0" * 400, TOO_LARGE, f"-{TOO_LARGE}"])
async def test_a_number_that_is_infinite_on_devices_is_a_dead_letter_to_every_fold(log, digits):
    infinite = written(digits)
    bad = [
        row("update", "m1", 2, {"title": "of the bad one", "cadence.atHour": infinite}),
        row("update", "m1", 3, {"iterations": [{"id": "i1", "deep": [{"er": infinite}]}]}),
        row("update", "m1", 4, {"title": "of a bad stamp"}) | {"field_meta": {"title": {"at": infinite}}},
        row("update", "m1", 5, {"title": "of a bad actor"}) | {"actor": {"kind": infinite}},
        row("insert", "m2", 6, {"title": "nothing else", "n": infinite}),
    ]
    await log.write([row("insert", "m1", 1, {"title": "t"}), *bad, row("update", "m1", 9, {"state": "active"})])
    async with running(log.settings):
        await log.caught_up()
        for view in (MISSIONS, MISSION_ITERATIONS):
            report = await verify(log.settings, view)
            assert (report.rows, report.examples) == (1, ())
            for source in ("topics", "log"):
                await rebuild.start(log.settings, view, source=source, replace=True)
                assert (await rebuild.promote(log.settings, view)).examples == ()
    assert await records(log) == {"m1": {"title": "t", "state": "active"}}
    letters = await log.admin.execute(
        'select view, array_agg(change_id order by "offset") from mana_ai.dead_letters'
        " where reason = 'number-out-of-range' group by 1 order by 1"
    )
    assert await letters.fetchall() == [(view, [one["id"] for one in bad]) for view in ("iterations", "missions")]
    found = await read_history(log.settings, ("u1", "ai", "aiMissions", "m1"))
    assert (found.standing, {letter.reason for letter in found.letters}) == ("equal", {"number-out-of-range"})


async def test_a_number_that_is_zero_on_devices_is_folded_as_zero(log):
    """What is written below it makes an object of it: a zero is falsy."""
    await log.write(
        [
            row(
                "insert", "zero", 1, {"n": written(TOO_SMALL), "m": written(f"-{TOO_SMALL}"), "kept": written("1e-400")}
            ),
            row("update", "zero", 2, {"n.below": 5, "m.below": 5}),
            row("insert", "least", 1, {"n": written(SMALLEST), "largest": written(LARGEST)}),
            row("update", "least", 2, {"n.below": 5}),
        ]
    )
    async with running(log.settings):
        await log.caught_up(MISSIONS)
        assert (await verify(log.settings, MISSIONS)).examples == ()
    assert await records(log) == {
        "zero": {"n": {"below": 5}, "m": {"below": 5}, "kept": 0},
        "least": {"n": float(SMALLEST), "largest": float(LARGEST)},
    }


async def test_a_row_that_was_given_such_a_number_is_a_difference_and_no_end_of_the_comparison(log):
    change = row("insert", "m1", 1, {"title": "t", "n": 1})
    await log.write([change])
    async with running(log.settings):
        await log.caught_up(MISSIONS)
    await log.admin.execute("update mana_ai.mission_snapshots_1 set record = record || '{\"n\": -1e310}'")
    [found] = (await verify(log.settings, MISSIONS, settle_s=0)).examples
    assert (found.kind, found.path, found.serving, found.log) == ("value", "record.n", f'"-1{310 * "0"}"', "1")
    assert found.parting is not None
    assert found.parting.change_id == change["id"]
