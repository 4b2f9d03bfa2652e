"""A plan as clients know it: one iteration of a mission."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from projector.fold import format_instant
from projector.log.clock import from_datetime
from projector.planner.inputs.sizes import cut

MAX_SUMMARY, MAX_STEP_SUMMARY = 8_000, 500
"""UTF-16 units. The ledger has all of it; every device repeats the iteration with each array that it writes."""


def iso_ms(moment: datetime) -> str:
    """`YYYY-MM-DDTHH:MM:SS.mmmZ`, cut to the millisecond; clients compare such texts as strings."""
    return format_instant(from_datetime(moment))


def iteration_of(
    plan: Mapping[str, Any], iteration_id: UUID, *, started_at: datetime, finished_at: datetime
) -> dict[str, Any]:
    """The iteration of a stored plan (`summary`, and `steps` with `toolName` and `params`).

    It awaits review when something was planned; a plan without steps needs nobody's approval, and one with an `error`
    (`name`, `message`) has failed. Step ids are the iteration's id and the step's index from 0, the same on every
    device.
    """
    error = plan.get("error")
    steps = [
        {
            "id": f"{iteration_id}-{index}",
            "summary": cut(step["summary"], MAX_STEP_SUMMARY),
            "intent": {"kind": "toolCall", "toolName": step["toolName"], "params": step["params"]},
            "status": "planned",
        }
        for index, step in enumerate(plan["steps"])
    ]
    iteration = {
        "id": str(iteration_id),
        "startedAt": iso_ms(started_at),
        "finishedAt": iso_ms(finished_at),
        "plan": steps,
        "summary": cut(plan["summary"], MAX_SUMMARY),
        "overallStatus": "failed" if error else "awaiting-review" if steps else "approved",
        "source": "server",
    }
    return iteration | {"errorDetails": dict(error)} if error else iteration
