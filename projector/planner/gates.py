"""May this run go ahead: what is asked of its mission, its agent, and what the agent has in hand."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from projector.planner.agent import Agent
from projector.planner.foreground import runs_in_foreground
from projector.planner.mission import Mission

Decision = Literal[
    "admitted",
    "mission-gone",
    "mission-inactive",
    "mission-rescheduled",
    "skipped-encrypted",
    "skipped-malformed",
    "skipped-foreground",
    "skipped-failing",
    "skipped-no-agent",
    "skipped-archived",
    "skipped-paused",
    "skipped-concurrency",
    "skipped-budget",
    "skipped-reserved",
    "stopped-budget",
    "stopped-time",
    "no-plan",
    "skipped-stopped",
    "skipped-spend-cap",
    "skipped-version",
    "skipped-gaps",
    "research-pending",
]

WAITING_FOR_OTHERS = ("skipped-concurrency", "skipped-reserved")
"""Decisions that the end of another run of the agent may turn. Whoever takes one holds the run at once, in the same
transaction: an end that came between the two would wake nobody.
"""
LOOKED_AT_SOON = (*WAITING_FOR_OTHERS, "skipped-foreground", "skipped-version")
"""These, and others that pass without a change of mission or agent: a browser ends its run, and while a new version is
rolled out, workers that can go on with a run are about.
"""


@dataclass(frozen=True, slots=True)
class Situation:
    """The mission as the view shows it now (None: no such, deleted, or known by updates alone), and its agent.

    `changed_at`: the newest change of the two.
    """

    mission: Mission | None
    next_run_at: datetime | None
    agent: Agent | None
    changed_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Load:
    """Runs of the agent besides this one, tokens it spent in the last 24 hours, and tokens those runs have reserved."""

    running: int
    tokens: int
    reserved: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """`hold`: look again later; `cancel`: what was due is no longer; `fail`: no later look can help.

    `reason` is for people, without their data.
    """

    action: Literal["admit", "hold", "cancel", "fail"]
    decision: Decision
    reason: str = ""


def judge_mission(situation: Situation, due_at: datetime, now: datetime) -> Verdict | None:
    """What stands against the run whatever the agent has in hand; None when nothing does."""
    mission, agent = situation.mission, situation.agent
    if mission is None:
        return Verdict("cancel", "mission-gone", "the mission was deleted")
    if mission.state != "active":
        return Verdict("cancel", "mission-inactive", f"the mission is {mission.state[:40] or 'without a state'}")
    if situation.next_run_at is None or situation.next_run_at > due_at:
        return Verdict("cancel", "mission-rescheduled", "the mission was run or moved by a device")
    if runs_in_foreground(mission, now):
        return Verdict("hold", "skipped-foreground", "a device runs the mission itself at this moment")
    if field := mission.encrypted_field:
        return Verdict("hold", "skipped-encrypted", f"only its owner's devices can read the mission's {field}")
    if mission.mistyped is not None:
        return Verdict("hold", "skipped-malformed", f"the mission's {mission.mistyped} is no text")
    if mission.says_nothing:
        return Verdict("hold", "skipped-malformed", "the mission has neither title, nor concept, nor objective")
    if agent is None:
        return Verdict("hold", "skipped-no-agent", "the mission's agent is unknown or deleted")
    if agent.state == "archived":
        return Verdict("hold", "skipped-archived", "the agent is archived")
    if agent.state != "active":
        # A state that this version does not know is treated as the careful one.
        return Verdict("hold", "skipped-paused", f"the agent is {agent.state[:40] or 'in a state that is no text'}")
    if agent.mistyped is not None:
        return Verdict("hold", "skipped-malformed", f"the agent's {agent.mistyped} is no number")
    return None


def judge_load(agent: Agent, load: Load) -> Verdict:
    """Whether the agent may take on one more run now."""
    if load.running >= agent.max_concurrent:
        return Verdict(
            "hold", "skipped-concurrency", f"the agent runs {load.running} of {agent.max_concurrent} missions at once"
        )
    if agent.daily_tokens is not None and load.tokens >= agent.daily_tokens:
        return Verdict("hold", "skipped-budget", _spent(load, agent.daily_tokens))
    left = tokens_left(agent, load)
    if left is not None and left <= 0:
        assert agent.daily_tokens is not None
        reason = f"{_spent(load, agent.daily_tokens)}, and its other runs have reserved the rest"
        return Verdict("hold", "skipped-reserved", reason)
    return Verdict("admit", "admitted")


def passed(agent: Agent, load: Load) -> dict[str, int | None]:
    """What the gates found of a run that they let pass; it is kept with what the run asks. `cap` None: no cap."""
    return {
        "running": load.running,
        "places": agent.max_concurrent,
        "spent": load.tokens,
        "reserved": load.reserved,
        "cap": agent.daily_tokens,
    }


def judge_round(agent: Agent, load: Load, allowance: int, needed: int, *, most: int) -> Verdict | None:
    """What stands against one more round of an admitted run; None when nothing does.

    `allowance` is what the run has left of its reservation, `needed` what the round will cost at least, `most` what
    any run may reserve.
    """
    cap = most if agent.daily_tokens is None else min(most, agent.daily_tokens)
    if needed > cap:
        return Verdict("fail", "stopped-budget", f"the next round needs {needed} tokens, and a run may spend {cap}")
    left = tokens_left(agent, load)
    if left is not None and left < needed:
        assert agent.daily_tokens is not None
        reason = f"{_spent(load, agent.daily_tokens)}, and the next round needs {needed}"
        return Verdict("hold", "stopped-budget", reason)
    if allowance < needed:
        return Verdict("hold", "stopped-budget", f"the run may spend {allowance} more tokens, and needs {needed}")
    return None


def tokens_left(agent: Agent, load: Load) -> int | None:
    """What the agent may spend now beside what its other runs have reserved; None without a cap. May be negative."""
    return None if agent.daily_tokens is None else agent.daily_tokens - load.tokens - load.reserved


def _spent(load: Load, cap: int) -> str:
    return f"the agent spent {load.tokens} of {cap} tokens in 24 hours"
