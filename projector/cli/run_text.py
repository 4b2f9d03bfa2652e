"""A run of the ledger for people and for scripts; what users wrote only where it is asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import orjson

from projector.cli.letters import inline
from projector.cli.redact import printable, redact
from projector.cli.status import seconds
from projector.planner.catalogue import CATALOGUE
from projector.planner.pruned import prompt_digests
from projector.views.jsondiff import Found, absent, show_path

if TYPE_CHECKING:
    from projector.planner.runs import Listed, StoredStep, Whole

_TOOLS = frozenset(tool.name for tool in CATALOGUE)


def lines(run: Listed) -> tuple[str, str]:
    """A run of the list."""
    because = f": {inline(run.reason)}" if run.reason else ""
    attempts = f"{run.attempts} {'attempt' if run.attempts == 1 else 'attempts'}"
    tokens = run.prompt_tokens + run.completion_tokens
    return (
        f"{run.run_id} {run.state:<9} {run.decision or '-'}{because}",
        f"{'':>36} user {inline(run.user_id)}, mission {inline(run.mission_id)}, due {_at(run.due_at)}, {attempts},"
        f" {tokens:,} tokens, changed {seconds(run.age_s)} ago",
    )


def fields(run: Listed) -> dict[str, Any]:
    """The same for scripts."""
    return {name: getattr(run, name) for name in run.__slots__}


def details(run: Listed, whole: Whole, steps: Sequence[StoredStep], *, content: bool) -> Iterator[str]:
    """What only `show` tells, line by line."""
    yield f"  agent     {inline(run.agent_id)}"
    yield f"  opened    {_at(run.created_at)}, started {_at(whole.started_at)}, planned {_at(whole.planned_at)}"
    yield f"  written   {_at(whole.written_at)}, iteration {whole.iteration_id}, change {whole.change_id or '-'}"
    yield f"  position  {_position(whole)}"
    yield f"  lease     {_lease(run)}"
    yield f"  mission   {_mission(whole)}"
    yield f"  now       {outlook(run, whole)}"
    yield f"  gates     {_gates(whole.brief)}"
    yield f"  asked     {_text(brief_fields(whole.brief, content=content))}"
    yield f"  research  {_research(whole)}"
    yield f"  plan      {_text(plan_fields(whole.plan, content=content))}"
    yield f"  steps     {len(steps)}, {run.prompt_tokens:,} + {run.completion_tokens:,} tokens"
    for step in steps:
        yield (
            f"  {step.seq:>4} {step.kind:<4} {_at(step.created_at)} {step.prompt_tokens:>7,} +"
            f" {step.completion_tokens:>6,} tokens, asked {step.request_digest.hex()[:16]}:"
            f" {_text(answer_fields(step, content=content))}"
        )
        if step.evidence is not None:
            yield f"{'':>10} {_served(step.evidence)}"
    for failed in whole.failed_calls:
        used = f"{failed['prompt_tokens']:,} + {failed['completion_tokens']:,} tokens"
        yield f"  failed    {_at(datetime.fromisoformat(failed['at']))} {used}, {_served(failed)}"


def detail_fields(run: Listed, whole: Whole, steps: Sequence[StoredStep], *, content: bool) -> dict[str, Any]:
    """The same for scripts."""
    return {
        **{name: getattr(whole, name) for name in whole.__slots__ if name not in ("brief", "plan")},
        "outlook": outlook(run, whole),
        "gates": None if whole.brief is None else whole.brief.get("gates"),
        "brief": brief_fields(whole.brief, content=content),
        "plan": plan_fields(whole.plan, content=content),
        "steps": [
            {
                "seq": step.seq,
                "kind": step.kind,
                "request_digest": step.request_digest.hex(),
                "prompt_tokens": step.prompt_tokens,
                "completion_tokens": step.completion_tokens,
                "created_at": step.created_at,
                "evidence": step.evidence,
                "answer": answer_fields(step, content=content),
            }
            for step in steps
        ],
    }


def outlook(run: Listed, whole: Whole) -> str:
    """What happens next by itself."""
    if run.state == "written":
        return "nothing follows"
    if run.state == "running":
        return "a worker takes it over" if run.lease_expired else "a worker is at it"
    if run.state == "planned":
        return f"the write-back takes its plan, by {_at(run.next_attempt_at)} at the latest"
    if run.state in ("due", "held"):
        return f"a worker takes it, from {_at(run.next_attempt_at)}"
    shown = whole.mission_next_run_at == run.due_at and whole.mission_deleted is False
    if run.next_attempt_at is not None:
        return f"it is opened again from {_at(run.next_attempt_at)} if its mission is due at this time then"
    if shown:
        return (
            "it does not come back by itself, and its mission stands still at this due time until a device moves it on"
            " or `projector runs retry`"
        )
    return "it does not come back by itself"


def brief_fields(brief: dict[str, Any] | None, *, content: bool) -> Any:
    """What was asked: the prompts as their digests and lengths in bytes, unless `content`."""
    if brief is None or content:
        return redact(brief)
    sizes = {f"{name}_bytes": len(brief[name].encode()) for name in ("system", "user") if name in brief}
    kept = {name: brief.get(name) for name in ("model", "maxRounds")} | {"tools": len(brief.get("tools") or ())}
    kept |= {"inputs": brief["inputSizes"]} if "inputSizes" in brief else {}
    return kept | sizes | prompt_digests(brief)


def plan_fields(plan: dict[str, Any] | None, *, content: bool) -> Any:
    """What was planned: the tools without their arguments, unless `content`."""
    if plan is None or content:
        return redact(plan)
    kept = {name: plan.get(name) for name in ("stopReason", "rounds", "rejectedCalls")}
    return kept | {
        "tools": [_tool(step["toolName"]) for step in plan["steps"]],
        "summary_bytes": len(plan["summary"].encode()),
    }


def plan_lines(plan: dict[str, Any], *, content: bool) -> Iterator[str]:
    """The same for people, a step on a line."""
    steps, rounds, refused = len(plan["steps"]), plan["rounds"], plan["rejectedCalls"]
    yield f"{steps} steps in {rounds} rounds, {refused} calls refused, {plan['stopReason']}"
    for number, step in enumerate(plan["steps"], 1):
        yield f"  {number:>2} {_tool(step['toolName'])}" + (f" {_text(redact(step['params']))}" if content else "")
    if content:
        yield f"  {inline(plan['summary'])}"


def answer_fields(step: StoredStep, *, content: bool) -> Any:
    """The model's answer as the tools it calls, a tool's as whether it went well, unless `content`."""
    response = step.response
    if response is None:
        return {"pruned": True}
    if content:
        return redact(response)
    size = {"bytes": len(orjson.dumps(response))}
    if step.kind == "tool":
        return {"success": response["success"]} | size
    if "error" in response:
        return {"failed": True} | size
    tools = [_tool(call["name"]) for call in response["toolCalls"]]
    return {"calls": tools, "finishReason": _finish(response["finishReason"])} | size


def difference_fields(found: Found, *, content: bool) -> dict[str, Any]:
    """Where two plans part; values as their size in bytes, unless `content`."""
    sides = {"one": found.serving, "other": found.log}
    return {"path": show_path(found.path)} | {
        name: None if value is absent else redact(value) if content else f"({len(orjson.dumps(value))} bytes)"
        for name, value in sides.items()
    }


def difference_line(found: Found, *, content: bool) -> str:
    fields = difference_fields(found, content=content)
    one, other = ("(absent)" if fields[side] is None else _text(fields[side]) for side in ("one", "other"))
    return f"{inline(fields['path'])}: {one} -> {other}"


def _served(evidence: dict[str, Any]) -> str:
    cost = "" if evidence["cost"] is None else f", ${evidence['cost']:.6f}"
    failed = "error" in evidence
    route = f", tried {' '.join(evidence['route'])}" if len(evidence["route"]) > (0 if failed else 1) else ""
    by = evidence["error"] if failed else f"by {evidence['model'] or 'an unnamed model'}"
    return inline(f"{by} in {evidence['ms']:,} ms{cost}{route}")


def _tool(name: str) -> str:
    # The model may write anything in the place of a name.
    return name if name in _TOOLS else "unknown"


def _finish(reason: Any) -> str | None:
    return reason if reason in (None, "stop", "length", "tool_calls", "content_filter") else "unknown"


def _lease(run: Listed) -> str:
    if run.lease_owner is None:
        return "none"
    return (
        f"{inline(run.lease_owner)}, {'ran out' if run.lease_expired else 'until'} {_at(run.lease_until)},"
        f" last sign of life {seconds(run.age_s)} ago"
    )


def _gates(brief: dict[str, Any] | None) -> str:
    """What the gates found when they let the run pass; one that they turn away says so in its decision."""
    found = None if brief is None else brief.get("gates")
    if found is None:
        return "-"
    cap = "" if found["cap"] is None else f" of {found['cap']:,}"
    return (
        f"mission due, agent active, {found['running']} of {found['places']} runs at once, {found['spent']:,}{cap}"
        f" tokens spent in 24 hours, {found['reserved']:,} reserved by others"
    )


def _position(whole: Whole) -> str:
    """Where the change is in the log: between these two, and at the second unless the mission changed since."""
    if whole.change_id is None:
        return "-"
    back = "not back from the log yet" if whole.seen_lsn is None else f"back by {whole.seen_source}:{whole.seen_lsn}"
    return f"row below LSN {whole.written_lsn or '(not kept)'}, {back}"


def _research(whole: Whole) -> str:
    """The deep job that the run began or submitted."""
    if whole.research_at is None and whole.research_credits is None:
        return "-"
    cost = "cost not told" if whole.research_credits is None else f"{whole.research_credits:,g} credits"
    return f"deep, begun {_at(whole.research_at)}, {cost}"


def _mission(whole: Whole) -> str:
    if whole.mission_deleted is None:
        return "not in the view"
    state = "deleted" if whole.mission_deleted else inline(whole.mission_state)
    return f"{state}, next run at {_at(whole.mission_next_run_at)}"


def _at(moment: datetime | None) -> str:
    return "-" if moment is None else f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _text(value: Any) -> str:
    return "-" if value is None else printable(orjson.dumps(value).decode())
