"""Limits that hold whatever the policy says: on what the model is told, and on what it may plan."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from projector import metrics
from projector.planner.inputs.sizes import units
from projector.planner.outcome import PlannedStep
from projector.planner.tools import RejectedCall, Tool

MAX_INPUT_UNITS = 100_000
"""Of what is told of a mission, in UTF-16 units."""
MAX_STEPS = 25
MAX_PLAN_BYTES = 200_000
"""Of the arguments of all its steps, as JSON: devices repeat them with each array of iterations that they write."""
# A value that a device would take, and make a thing of that says nothing.
REQUIRED_TEXT = {"create_task": "title", "save_news_article": "url"}

Guardrail = Literal[
    "input-size-limit", "plan-step-limit", "plan-size-limit", "duplicate-destructive-tool", "empty-required-params"
]


@dataclass(frozen=True, slots=True)
class Finding:
    """`reason` is for people and the model, without anybody's data."""

    guardrail: Guardrail
    reason: str
    severity: Literal["warn", "block"] = "block"


def judge_input(told: str) -> Finding | None:
    """Before the model is asked: whether there is more to tell it than any mission needs."""
    size = units(told)
    if size <= MAX_INPUT_UNITS:
        return None
    return _counted(Finding("input-size-limit", f"the mission tells {size} characters, and {MAX_INPUT_UNITS} may be"))


def judge_step(tool: Tool, arguments: dict[str, Any], planned: Sequence[PlannedStep]) -> str:
    """Before a call that holds joins the plan: a warning to go along with the answer, or ''. Raises RejectedCall."""
    warnings = []
    for finding in _findings(tool, arguments, planned):
        _counted(finding)
        if finding.severity == "block":
            raise RejectedCall(f"Guardrail: {finding.reason}")
        warnings.append(finding.reason)
    return ". ".join(warnings)


def _findings(tool: Tool, arguments: dict[str, Any], planned: Sequence[PlannedStep]) -> Iterator[Finding]:
    if len(planned) >= MAX_STEPS:
        yield Finding("plan-step-limit", f"The plan is full: {MAX_STEPS} steps at most")
    if sum(len(orjson.dumps(each)) for each in [arguments, *(step.arguments for step in planned)]) > MAX_PLAN_BYTES:
        yield Finding("plan-size-limit", f"The plan is full: {MAX_PLAN_BYTES} bytes of arguments at most")
    field = REQUIRED_TEXT.get(tool.name)
    if field is not None and not str(arguments.get(field, "")).strip():
        yield Finding("empty-required-params", f"{tool.name} needs a {field} that is not empty")
    if tool.effect == "destructive":
        before = [step.arguments for step in planned if step.tool == tool.name]
        if arguments in before:
            reason = f"{tool.name} with these arguments is planned already, and destroys more if repeated"
            yield Finding("duplicate-destructive-tool", reason)
        elif before:
            reason = f"{tool.name} is planned more than once: make sure that each is meant"
            yield Finding("duplicate-destructive-tool", reason, "warn")


def _counted(finding: Finding) -> Finding:
    metrics.GUARDRAILS.labels(guardrail=finding.guardrail, severity=finding.severity).inc()
    return finding
