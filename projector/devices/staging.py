"""Staging: the steps that a server planned become proposals, the same ones on every device.

A proposal has no record of its own: it is its step. Its id follows from iteration and step, and whatever is decided
of it is written into the step, so that each device, and the server, reads the same from the same array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeAlias
from uuid import uuid5

from projector.devices.steps import Json, is_named, settle, text, tool_of
from projector.fold.stamps import format_instant, parse_instant
from projector.log.ids import NAMESPACE

Decision: TypeAlias = Literal["auto", "propose", "deny"]
Decide: TypeAlias = Callable[[str], Decision]
"""What the policy says of a tool, by its name."""

LIFETIME = timedelta(days=30)
"""After that a plan that nobody decided on is of yesterday."""
MAX_ERROR = 120


@dataclass(frozen=True, slots=True)
class Terms:
    """Under which one device stages at one moment. `now_us` by its clock, µs since the epoch."""

    decide: Decide
    now_us: int
    client_id: str
    lifetime: timedelta = LIFETIME


def stage(iteration: Json, terms: Terms) -> dict[str, Any]:
    """The iteration with every planned step staged, notes passed over, and stale proposals expired.

    A tool that the policy denies fails its step; one that runs without being asked is decided by the policy.
    Staging what is staged changes nothing.
    """
    plan = iteration.get("plan")
    if not isinstance(plan, list):
        return dict(iteration)
    expires_us = expiry(iteration, terms.lifetime)
    stale = expires_us is not None and expires_us < terms.now_us
    steps = [_stage(text(iteration, "id"), step, terms, stale) if is_named(step) else step for step in plan]
    return settle({**iteration, "plan": steps})


def proposal_id(iteration_id: str, step_id: str) -> str:
    """The same on every device."""
    return _name("proposal", iteration_id, step_id)


def effect_id(iteration_id: str, step_id: str) -> str:
    """Id of the record that a step creates: carried out twice, it is still one record."""
    return _name("effect", iteration_id, step_id)


def expiry(iteration: Json, lifetime: timedelta) -> int | None:
    """When proposals of the iteration expire, µs since the epoch; None when it does not say when it was planned."""
    planned_us = parse_instant(planned_at(iteration))
    return None if planned_us is None else planned_us + lifetime // timedelta(microseconds=1)


def planned_at(iteration: Json) -> str:
    return text(iteration, "finishedAt") or text(iteration, "startedAt")


def failed(step: Json, message: str) -> dict[str, Any]:
    """The fields of a step that could not be carried out."""
    return {"status": "failed", "summary": f"{text(step, 'summary')} (FEHLER: {message[:MAX_ERROR]})"}


def _stage(iteration_id: str, step: Json, terms: Terms, stale: bool) -> dict[str, Any]:
    now = format_instant(terms.now_us)
    staged = dict(step)
    if step.get("status") == "planned":
        tool = tool_of(step)
        decision = terms.decide(tool) if tool else "propose"
        if not tool:
            intent = step.get("intent")
            is_note = isinstance(intent, dict) and intent.get("kind") == "note"
            return staged | {"status": "skipped"} if is_note else staged
        if decision == "deny":
            return staged | failed(step, f'Tool "{tool}" is not available to AI actors under current policy')
        name = text(step, "proposalId") or proposal_id(iteration_id, step["id"])
        staged |= {"status": "staged", "proposalId": name}
        if decision == "auto":
            return staged | {"decidedAt": now, "decidedBy": "policy", "decidedOn": terms.client_id}
    if stale and staged.get("status") == "staged" and not staged.get("decidedBy"):
        return staged | {"status": "skipped", "decidedAt": now, "decidedBy": "auto-expire"}
    return staged


def _name(kind: str, iteration_id: str, step_id: str) -> str:
    return str(uuid5(NAMESPACE, f"{kind}|{len(iteration_id)}:{iteration_id}|{len(step_id)}:{step_id}"))
