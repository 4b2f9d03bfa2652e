"""What a run stores has versions, so that a program knows which of it it can go on with.

A new version is listed beside the old ones, with what it takes to read them, until no ledger holds those any more;
`tests/data/ledgers` has one of each release.
"""

from __future__ import annotations

from typing import Any

from projector.planner.gates import Verdict

STEPS = 2
"""Of a brief and of the steps that follow from it: what is stored, and what of it tells a request from another."""
PLAN = 1

CONTINUED = (2,)
"""Versions of steps that this program goes on with, without asking anything again that was answered."""
WRITTEN = (1,)
"""Versions of plans that this program writes back."""


def judge_steps(brief: dict[str, Any] | None) -> Verdict | None:
    """What stands against going on with the steps of this brief; None when nothing does, or when there are none."""
    if brief is None or brief.get("version") in CONTINUED:
        return None
    return Verdict(
        "hold",
        "skipped-version",
        f"its steps are of version {brief.get('version')}, and this program continues {_listed(CONTINUED)}: run a"
        " planner that continues them, or cancel the run",
    )


def refusal_of_plan(plan: dict[str, Any]) -> str | None:
    """Why this plan is not written back; None when it can be."""
    if plan.get("version") in WRITTEN:
        return None
    return (
        f"its plan is of version {plan.get('version')}, and this program writes {_listed(WRITTEN)}: run a sink that"
        " writes them, or cancel the run"
    )


def _listed(versions: tuple[int, ...]) -> str:
    return f"version {', '.join(map(str, versions))} only"
