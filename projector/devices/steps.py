"""A server iteration in two copies, and what the statuses of its steps make of it.

Arrays of iterations are replaced whole, so a copy that comes in may know less than the one before it. What is joined
here follows the fold of `mission_iterations`: a status gives way to higher ones alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from projector.fold.items import ITERATION, STEP

Json = Mapping[str, Any]

BULLET = "· "
# What the whole is once its highest step is settled; an expired step is one that nobody carried out.
_OUTCOMES = {"skipped": "failed", "failed": "failed", "rejected": "rejected", "approved": "approved"}


def join_iteration(known: Json, seen: Json) -> dict[str, Any]:
    """The copy `seen`, with what `known` knows beyond it. Steps that `seen` has no more are not brought back."""
    joined = {**known, **seen}
    if ITERATION.rank(text(known, "overallStatus")) > ITERATION.rank(text(seen, "overallStatus")):
        joined["overallStatus"] = known["overallStatus"]
    if seen.get("userFeedback") == "" and text(known, "userFeedback"):
        joined["userFeedback"] = known["userFeedback"]  # a form without an entry
    if isinstance(seen.get("plan"), list):
        before = {step["id"]: step for step in steps_of(known)}
        joined["plan"] = [
            _join_step(before[step["id"]], step) if is_named(step) and step["id"] in before else step
            for step in seen["plan"]
        ]
        for step in steps_of(joined):
            if _weight(step) > _weight(_step(seen, step["id"])) and text(step, "userFeedback"):
                joined = with_feedback(joined, step["userFeedback"])
    elif "plan" in known:
        joined["plan"] = known["plan"]
    return joined


def settle(iteration: Json) -> dict[str, Any]:
    """The iteration with the status that its steps give it, once none of them waits."""
    steps = [step for step in steps_of(iteration) if tool_of(step)]
    statuses = [text(step, "status") for step in steps]
    if any(status not in _OUTCOMES for status in statuses):
        return dict(iteration)
    outcome = _OUTCOMES[max(statuses, key=STEP.rank)] if statuses else "approved"
    if ITERATION.rank(outcome) > ITERATION.rank(text(iteration, "overallStatus")):
        return {**iteration, "overallStatus": outcome}
    return dict(iteration)


def with_step(iteration: Json, step_id: str, **fields: Any) -> dict[str, Any]:
    """The iteration with fields of one step changed."""
    plan = [{**step, **fields} if is_named(step) and step["id"] == step_id else step for step in iteration["plan"]]
    return {**iteration, "plan": plan}


def with_feedback(iteration: Json, feedback: str) -> dict[str, Any]:
    """The iteration with one more entry of feedback, unless it has that entry."""
    known = text(iteration, "userFeedback")
    if feedback in known.split(f"\n{BULLET}"):
        return dict(iteration)
    return {**iteration, "userFeedback": f"{known}\n{BULLET}{feedback}" if known else feedback}


def steps_of(iteration: Json) -> Iterator[dict[str, Any]]:
    """The objects of the plan that have an id."""
    plan = iteration.get("plan")
    return (step for step in plan if is_named(step)) if isinstance(plan, list) else iter(())


def server_iterations(array: Iterable[Any]) -> Iterator[dict[str, Any]]:
    """The elements of a mission's array that a server planned and that nobody archived."""
    return (one for one in array if is_named(one) and one.get("source") == "server" and not one.get("archivedAt"))


def tool_of(step: Json) -> str:
    """Name of the tool that the step calls; empty for a note, and for what is no step of ours."""
    intent = step.get("intent")
    return text(intent, "toolName") if isinstance(intent, dict) and intent.get("kind") == "toolCall" else ""


def is_named(element: object) -> bool:
    return isinstance(element, dict) and text(element, "id") != ""


def text(record: Json, name: str) -> str:
    """The field when it is a text, else ''."""
    value = record.get(name)
    return value if isinstance(value, str) else ""


def _join_step(known: Json, seen: Json) -> dict[str, Any]:
    if _weight(known) <= _weight(seen):
        return {**known, **seen}
    if text(known, "status") == "staged" and not known.get("decidedBy"):
        return {**known, **seen, "status": "staged"}
    # What was decided holds for the step as it was then, also when its intent was edited meanwhile.
    return {**seen, **known}


def _weight(step: Json) -> tuple[int, bool]:
    return STEP.rank(text(step, "status")), bool(step.get("decidedBy"))


def _step(iteration: Json, step_id: str) -> Json:
    return next(step for step in steps_of(iteration) if step["id"] == step_id)
