"""Arrays of iterations for tests, of every shape that writers store and some that nobody should."""

from __future__ import annotations

from random import Random
from typing import Any

STATUSES = ["running", "awaiting-review", "approved", "rejected", "failed", "reverted", "stuck", "", None, 7]
STEP_STATUSES = ["planned", "staged", "approved", "rejected", "skipped", "failed", "odd", None]
STARTS = ["2026-06-01T10:00:01.000Z", "2026-06-01T10:00:02.000Z", "2026-06-01T12:00:01.000+02:00", "soon", None, 5]
FEEDBACK = ["", "more", "less", "Mehr ä \u2028 \U0001f331", None, 3]
VALUES = [
    None,
    True,
    1,
    1.0,
    0.00001,
    0.5,
    0,
    False,
    "",
    "text",
    [],
    [1, {"b": 2, "aa": 1.0}],
    {"aa": 1, "b": 2},
    {"b": 2, "aa": 1.0},
]


def step(chance: Random) -> Any:
    if chance.random() < 0.1:
        return chance.choice([None, 7, "s1", {}, {"id": ""}, {"id": 3}, []])
    return {"id": chance.choice(["s1", "s2", "s3"])} | _some(
        chance,
        status=STEP_STATUSES,
        proposalId=["p1", "p2", "", None],
        summary=["create_task", "create_task (FEHLER: x)"],
        intent=VALUES,
    )


def iteration(chance: Random) -> Any:
    if chance.random() < 0.08:
        return chance.choice([None, 7, "i1", {}, {"id": ""}, {"id": None}, [{"id": "i1"}]])
    found = {"id": chance.choice(["i1", "i2", "i3", "I'4"])} | _some(
        chance,
        overallStatus=STATUSES,
        startedAt=STARTS,
        userFeedback=FEEDBACK,
        currentPhase=["calling-llm", "finalizing", None],
        phaseStartedAt=STARTS,
        cancelRequested=[True, False],
        errorDetails=[{"name": "E", "message": "m"}],
        archivedAt=[*STARTS, ""],
        summary=VALUES,
    )
    if chance.random() < 0.6:
        found["plan"] = [step(chance) for _ in range(chance.randint(0, 4))] if chance.random() < 0.95 else 7
    return found


def array(chance: Random) -> Any:
    """A value of `iterations`."""
    if chance.random() < 0.06:
        return chance.choice([None, 7, "text", {}, {"0": {"id": "i1"}}])
    return [iteration(chance) for _ in range(chance.randint(0, 4))]


def _some(chance: Random, **fields: list[Any]) -> dict[str, Any]:
    return {name: chance.choice(values) for name, values in fields.items() if chance.random() < 0.5}
