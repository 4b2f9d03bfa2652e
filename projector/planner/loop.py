"""The conversation of one run, from its prompt to its plan.

Every answer and every tool result is stored before anything follows from it. A run that is taken up again gets
the stored ones, as long as the request that led to them is the same, and asks only for what is missing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

from projector.llm.chat import ChatModel
from projector.planner.asking import Asking, CallStopped, MayAsk
from projector.planner.conversation import Conversation, Folding
from projector.planner.gates import Verdict
from projector.planner.json_round import JsonRound
from projector.planner.outcome import CUT_SHORT, Outcome, StopReason
from projector.planner.prompt import Prompt
from projector.planner.reminders import Quota
from projector.planner.steps import Journal, StepLog
from projector.planner.tool_calls import Judge, ToolCalls
from projector.planner.tools import Tool

Format = Literal["calls", "json"]
"""How the model says what it plans: by calls of functions, or as one JSON object."""

_STOPS: dict[str, StopReason] = {"stopped-time": "time", "no-plan": "no-plan"}


async def always(needed: int) -> Verdict | None:
    """Lets the model be asked whatever it costs."""
    return None


def unjudged(tool: Tool, arguments: dict[str, Any]) -> str:
    """Lets every call join the plan."""
    return ""


async def converse(
    model: ChatModel,
    alias: str,
    prompt: Prompt,
    tools: Sequence[Tool],
    log: StepLog,
    *,
    run_id: str,
    max_rounds: int,
    form: Format = "calls",
    folding: Folding | None = None,
    quota: Quota | None = None,
    max_s: float = math.inf,
    judge: Judge = unjudged,
    may_ask: MayAsk = always,
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Leads the conversation to its end. Errors of the model and of the log pass through.

    After `max_s` seconds the model is not asked any more: like a budget that is used up, this leaves what is there.
    """
    journal = Journal(log)
    await journal.load()
    asking = Asking(model, journal, run_id=run_id, may_ask=may_ask, max_s=max_s, clock=clock)
    calls = ToolCalls(journal, judge)
    outcome = Outcome()
    led = (
        Conversation(asking, calls, alias, tools, outcome, folding=folding, quota=quota)
        if form == "calls"
        else JsonRound(asking, calls, alias, tools, outcome, quota=quota)
    )
    try:
        ending = await led.lead(prompt, max_rounds)
    except CallStopped as stop:
        outcome.stopped = stop.verdict
        outcome.stop_reason = _STOPS.get(stop.verdict.decision, "budget")
        outcome.summary = f"{CUT_SHORT}{stop.verdict.reason}"
    else:
        outcome.summary, outcome.stop_reason = ending.summary, ending.stop_reason
    outcome.rounds = led.rounds
    outcome.prompt_tokens, outcome.completion_tokens = asking.prompt_tokens, asking.completion_tokens
    return outcome
