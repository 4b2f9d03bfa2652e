"""A proposal as a person is shown it: one step of a server's plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeAlias

from projector.devices.staging import effect_id, expiry, planned_at, proposal_id
from projector.devices.steps import Json, steps_of, text, tool_of
from projector.fold.stamps import format_instant
from projector.log.actor import AgentActor, agent

Status: TypeAlias = Literal["pending", "approved", "rejected", "failed", "expired"]

_OF_STEP: dict[str, Status] = {"approved": "approved", "rejected": "rejected", "failed": "failed", "skipped": "expired"}


@dataclass(frozen=True, slots=True)
class Proposal:
    """Times are ISO texts, '' when there is none. `approved` and not yet `executed`: some device has to run it."""

    id: str
    mission_id: str
    iteration_id: str
    step_id: str
    status: Status
    executed: bool
    tool: str
    params: dict[str, Any] = field(hash=False)
    rationale: str
    actor: AgentActor
    """Whom the effects of the tool are attributed to. Its rationale is empty: it stands in the log in the clear."""
    effect_id: str
    """Id for the record that the tool creates, the same on every device."""
    created_at: str
    expires_at: str
    decided_at: str
    decided_by: str
    """`user`, `policy` or `auto-expire`."""
    decided_on: str
    """Client id of the device that has to run it."""
    feedback: str


def proposals_of(
    mission_id: str, mission: Json, iteration: Json, agent_id: str, agent_name: str, lifetime: timedelta
) -> Iterator[Proposal]:
    """The proposals of one iteration, in the order of its plan."""
    iteration_id = iteration["id"]
    expires_us = expiry(iteration, lifetime)
    for step in steps_of(iteration):
        tool, status = tool_of(step), _status(step)
        if not tool or status is None:
            continue
        params = step["intent"].get("params")
        yield Proposal(
            id=text(step, "proposalId") or proposal_id(iteration_id, step["id"]),
            mission_id=mission_id,
            iteration_id=iteration_id,
            step_id=step["id"],
            status=status,
            executed=step.get("status") == "approved",
            tool=tool,
            params=params if isinstance(params, dict) else {},
            rationale=text(step, "summary") or text(iteration, "summary") or text(mission, "objective"),
            actor=agent(agent_id, agent_name, mission_id=mission_id, iteration_id=iteration_id),
            effect_id=effect_id(iteration_id, step["id"]),
            created_at=planned_at(iteration),
            expires_at="" if expires_us is None else format_instant(expires_us),
            decided_at=text(step, "decidedAt"),
            decided_by=text(step, "decidedBy"),
            decided_on=text(step, "decidedOn"),
            feedback=text(step, "userFeedback"),
        )


def _status(step: Json) -> Status | None:
    status = text(step, "status")
    if status == "staged":
        return "approved" if step.get("decidedBy") else "pending"
    return _OF_STEP.get(status)
