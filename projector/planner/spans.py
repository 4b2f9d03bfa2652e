"""A finished run as the spans of one trace, made of what the ledger keeps of it. Pure, and without content.

Names and attributes are those of OpenTelemetry's conventions for generative AI where there is one. Ids of runs,
iterations and changes are ours; those of users, missions and agents, which devices choose, are told by their digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from projector.planner.catalogue import CATALOGUE
from projector.planner.plan import plan_digest
from projector.planner.pruned import is_pruned, prompt_digests
from projector.planner.research.told import MODULE as RESEARCH
from projector.planner.runs import Listed, StoredStep, Whole
from projector.planner.steps import digest_of
from projector.planner.subagent import TASK

Value = str | int | float | bool | tuple[str, ...]

_TOOLS = frozenset({tool.name for tool in CATALOGUE} | {TASK.name})
_FINISHED = frozenset({"stop", "length", "tool_calls", "content_filter"})
_LONGEST_NAME = 200


@dataclass(frozen=True, slots=True)
class Span:
    """`parent` None: the root. `calls_out`: another service did it. `error`: a class of errors, or ''."""

    name: str
    span_id: int
    parent: int | None
    start: datetime
    end: datetime
    attributes: Mapping[str, Value] = field(default_factory=dict)
    calls_out: bool = False
    error: str = ""


def trace_id_of(run_id: UUID) -> int:
    """The run's own id: whichever process speaks of it speaks of one trace."""
    return run_id.int


def spans_of(run: Listed, whole: Whole, steps: Sequence[StoredStep]) -> list[Span]:
    """The root first, from due to done; the same spans whenever it is asked."""
    root = _span_id(run.run_id, "run")
    children = [
        *_of_inputs(run, whole, steps, root),
        *_of_steps(run, whole, steps, root),
        *_of_failures(run, whole, root),
        *_of_write_back(run, whole, root),
    ]
    failed = (whole.plan or {}).get("error", {}).get("name", "")
    ended = max([run.finished_at or run.updated_at, *(child.end for child in children)])
    attributes: dict[str, Value | None] = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.conversation.id": str(run.run_id),
        "gen_ai.agent.id": _digest(run.user_id, run.agent_id),
        "gen_ai.usage.input_tokens": run.prompt_tokens,
        "gen_ai.usage.output_tokens": run.completion_tokens,
        "projector.run.id": str(run.run_id),
        "projector.user.digest": _digest(run.user_id),
        "projector.mission.digest": _digest(run.user_id, run.mission_id),
        "projector.run.state": run.state,
        "projector.run.decision": run.decision,
        "projector.run.attempts": run.attempts,
        "projector.research.credits": whole.research_credits,
        **_of_plan(whole.plan),
    }
    return [
        Span("invoke_agent", root, None, min(run.due_at, ended), ended, _known(attributes), error=failed),
        *children,
    ]


def _of_plan(plan: dict[str, Any] | None) -> dict[str, Value | None]:
    if plan is None:
        return {}
    return {
        "projector.plan.sha256": plan_digest(plan),
        "projector.plan.steps": len(plan["steps"]),
        "projector.plan.rounds": plan.get("rounds"),
        "projector.plan.rejected_calls": plan.get("rejectedCalls"),
        "projector.plan.stop_reason": plan.get("stopReason"),
    }


def _of_inputs(run: Listed, whole: Whole, steps: Sequence[StoredStep], root: int) -> Iterator[Span]:
    """From the first attempt to the first call of the model; research that was told is a part of it."""
    brief = whole.brief
    if brief is None or whole.started_at is None:
        return
    end = max(whole.started_at, _began(steps[0]) if steps else whole.planned_at or whole.started_at)
    attributes: dict[str, Value | None] = {
        f"projector.prompt.{name.removesuffix('Sha256')}.sha256": digest
        for name, digest in prompt_digests(brief).items()
    }
    told: list[dict[str, Any]] = []
    if not is_pruned(brief):
        inputs = brief.get("inputs", {})
        told = inputs.get("told", [])
        attributes |= {
            "projector.prompt.bytes": sum(len(brief[name].encode()) for name in ("system", "user")),
            "projector.inputs.told": len(told),
            "projector.inputs.bytes": sum(len(one["content"].encode()) for one in told),
            "projector.inputs.gaps": len(inputs.get("gaps", ())),
        }
    own = _span_id(run.run_id, "input")
    yield Span("input", own, root, whole.started_at, end, _known(attributes))
    research = [one for one in told if one["module"] == RESEARCH]
    if research:
        size = sum(len(one["content"].encode()) for one in research)
        yield Span(
            "research",
            _span_id(run.run_id, "research"),
            own,
            whole.started_at,
            end,
            {"projector.research.bytes": size},
            calls_out=True,
        )


def _of_steps(run: Listed, whole: Whole, steps: Sequence[StoredStep], root: int) -> Iterator[Span]:
    brief = whole.brief or {}
    called: list[dict[str, Any]] = []
    for step in steps:
        span_id = _span_id(run.run_id, f"step {step.seq}")
        common: dict[str, Value | None] = {
            "gen_ai.conversation.id": str(run.run_id),
            "projector.step.seq": step.seq,
            "projector.step.kind": step.kind,
            "projector.request.sha256": step.request_digest.hex(),
        }
        if step.kind == "tool":
            name = _tool_of(step, called, brief.get("tools", ()))
            failed = step.response is not None and not step.response["success"]
            common |= {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name}
            title = f"execute_tool {name}"
            error = "rejected" if failed else ""
            yield Span(title, span_id, root, step.created_at, step.created_at, _known(common), error=error)
            continue
        response = step.response or {}
        called += response.get("toolCalls", ())
        alias = brief.get("foldingModel" if step.kind == "compact" else "model")
        yield Span(
            f"chat {alias}" if alias else "chat",
            span_id,
            root,
            _began(step),
            step.created_at,
            _known(common | _of_call(step, response, alias)),
            calls_out=True,
            error="model_failed" if "error" in response else "",
        )


def _of_failures(run: Listed, whole: Whole, root: int) -> Iterator[Span]:
    """Calls that the run did not go on with."""
    for failed in whole.failed_calls:
        ended = datetime.fromisoformat(failed["at"])
        attributes: dict[str, Value | None] = {
            "gen_ai.conversation.id": str(run.run_id),
            "gen_ai.usage.input_tokens": failed["prompt_tokens"],
            "gen_ai.usage.output_tokens": failed["completion_tokens"],
        }
        yield Span(
            "chat",
            _span_id(run.run_id, f"failed {failed['at']}"),
            root,
            ended - timedelta(milliseconds=failed["ms"]),
            ended,
            _known(attributes | _of_attempts(failed)),
            calls_out=True,
            error=failed["error"],
        )


def _of_attempts(evidence: Mapping[str, Any]) -> dict[str, Value | None]:
    """What there is to tell of a call however it ended."""
    route = tuple(attempt[:_LONGEST_NAME] for attempt in evidence.get("route", ()))
    return {
        "gen_ai.operation.name": "chat",
        # Where one endpoint is all there is, who stands behind it is not known: it speaks the format of this one.
        "gen_ai.provider.name": route[-1].partition("/")[0] if route else "openai",
        "projector.llm.cost_usd": evidence.get("cost"),
        "projector.llm.route": route or None,
        "projector.llm.attempts": len(route) or None,
    }


def _of_call(step: StoredStep, response: dict[str, Any], alias: str | None) -> dict[str, Value | None]:
    evidence = step.evidence or {}
    finish = response.get("finishReason")
    return _of_attempts(evidence) | {
        "gen_ai.request.model": alias,
        "gen_ai.response.model": evidence.get("model", "")[:_LONGEST_NAME] or None,
        "gen_ai.response.finish_reasons": None if finish is None else (finish if finish in _FINISHED else "unknown",),
        "gen_ai.usage.input_tokens": step.prompt_tokens,
        "gen_ai.usage.output_tokens": step.completion_tokens,
        "projector.llm.calls": len(response["toolCalls"]) if "toolCalls" in response else None,
    }


def _of_write_back(run: Listed, whole: Whole, root: int) -> Iterator[Span]:
    if whole.planned_at is None or whole.written_at is None or whole.change_id is None:
        return
    yield Span(
        "write_back",
        _span_id(run.run_id, "write_back"),
        root,
        whole.planned_at,
        max(whole.planned_at, whole.written_at),
        _known(
            {
                "projector.iteration.id": str(whole.iteration_id),
                "projector.change.id": str(whole.change_id),
                "projector.change.lsn": whole.written_lsn,
            }
        ),
    )


def _tool_of(step: StoredStep, called: Sequence[dict[str, Any]], tools: Sequence[str]) -> str:
    """The tool of the catalogue whose call this step answers; `unknown` for those of sub-agents, and when pruned."""
    for call in called:
        if call["name"] in _TOOLS and digest_of([call["name"], call["raw"], list(tools)]) == step.request_digest:
            return str(call["name"])
    return "unknown"


def _began(step: StoredStep) -> datetime:
    return step.created_at - timedelta(milliseconds=(step.evidence or {}).get("ms", 0))


def _span_id(run_id: UUID, part: str) -> int:
    """Not 0, which no span may have."""
    return int.from_bytes(hashlib.sha256(run_id.bytes + part.encode()).digest()[:8]) or 1


def _digest(*ids: str) -> str:
    return hashlib.sha256("\0".join(ids).encode()).hexdigest()[:16]


def _known(attributes: Mapping[str, Value | None]) -> dict[str, Value]:
    return {name: value for name, value in attributes.items() if value is not None}
