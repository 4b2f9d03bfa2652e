"""Carries the policy of calls out: in the mode that was set, over the calls of the last minute."""

from __future__ import annotations

import time
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Literal

from projector import metrics
from projector.logging import get
from projector.planner.call_policy import WINDOW_MS, Invocation, judge_call
from projector.planner.policy import opted_in
from projector.planner.tools import RejectedCall, Tool

Mode = Literal["off", "log-only", "enforce"]

MAX_RECENT = 512

log = get("planner")


class Guard:
    """One for all runs of a process: it counts calls per user, and forgets users who made none for a while.

    Several processes count apart, so a user may have the limit in each.
    """

    def __init__(self, mode: Mode, clock_ms: Callable[[], float] = lambda: time.monotonic() * 1000) -> None:
        self._mode = mode
        self._clock_ms = clock_ms
        self._recent: OrderedDict[str, deque[Invocation]] = OrderedDict()

    def judge(self, user_id: str, policy: object, tool: Tool, arguments: dict[str, Any]) -> str:
        """A reminder to go along with the answer, mostly ''; raises RejectedCall, in mode enforce only."""
        if self._mode == "off":
            return ""
        now = self._clock_ms()
        recent = self._recent.get(user_id, ())
        verdict = judge_call(tool, arguments, opted_in=opted_in(tool, policy), recent=recent, now_ms=now)
        decision = "deny" if verdict.reason else "flagged" if verdict.marker else "allow"
        reason = verdict.reason or ("injection-marker" if verdict.marker else "clean")
        metrics.POLICY_DECISIONS.labels(decision=decision, reason=reason, mode=self._mode).inc()
        if verdict.marker:
            metrics.INJECTION_MARKERS.labels(source="arguments", marker=verdict.marker).inc()
        if decision != "allow":
            # Never the text: it may be anybody's data.
            log.warning("call judged", tool=tool.name, decision=decision, reason=reason, mode=self._mode)
        if verdict.reason and self._mode == "enforce":
            raise RejectedCall(
                ": ".join(filter(None, (f"Tool {tool.name} not allowed", verdict.reason, verdict.reminder)))
            )
        self._note(user_id, Invocation(tool.name, now))
        return "" if verdict.reason else verdict.reminder

    def _note(self, user_id: str, invocation: Invocation) -> None:
        calls = self._recent.setdefault(user_id, deque(maxlen=MAX_RECENT))
        calls.append(invocation)
        self._recent.move_to_end(user_id)
        # The users stand in the order of their latest calls, so the stale ones come first.
        oldest = invocation.at_ms - WINDOW_MS
        while calls[0].at_ms < oldest:
            calls.popleft()
        while next(iter(self._recent.values()))[-1].at_ms < oldest:
            self._recent.popitem(last=False)
