"""What the model is reminded of in one request and no other: its history never shows it.

Everything that decides about it is the same when a run is taken up again, since the stored answers are compared with
the requests that led to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from projector.llm.chat import Message

RECENT = 5
"""Calls that are looked at, the latest ones."""
WARN_AT, FULL = 75, 100
"""Percent of a day's tokens."""
RETRY_ROUND = 3

Producer = Literal["compacted", "token-budget", "retry-loop"]
Severity = Literal["info", "warn", "escalate"]


@dataclass(frozen=True, slots=True)
class Quota:
    """What the agent may spend in 24 hours (`cap` None: anything), and had spent when the run was first admitted.

    `agent`: its name as the model is told it, between tags; bare in briefs of releases that stored it so.
    """

    agent: str
    cap: int | None
    spent_before: int = 0


@dataclass(frozen=True, slots=True)
class State:
    """Where the conversation is: `round` from 1, `tokens` of the run, the latest results, oldest first."""

    round: int
    tokens: int = 0
    recent: Sequence[bool] = ()
    compactions: int = 0


@dataclass(frozen=True, slots=True)
class Reminder:
    producer: Producer
    severity: Severity
    text: str


def reminders_of(state: State, quota: Quota | None) -> list[Reminder]:
    """All that there is to say now, in the order in which it is said."""
    produced = (compacted(state), token_budget(state, quota), retry_loop(state))
    return [reminder for reminder in produced if reminder is not None]


def compacted(state: State) -> Reminder | None:
    if state.compactions < 1:
        return None
    return Reminder(
        "compacted",
        "info",
        "Frühere Runden sind in einen <compact-summary>-Block gefaltet. Seine vier Abschnitte (Goal, Decisions,"
        " Tools Called, Current Progress) sind der maßgebliche Verlauf: frag nicht nach verlorenen Einzelheiten,"
        " sondern mach dort weiter.",
    )


def token_budget(state: State, quota: Quota | None) -> Reminder | None:
    if quota is None or quota.cap is None or quota.cap <= 0:
        return None
    used, cap = quota.spent_before + state.tokens, quota.cap
    if 100 * used < WARN_AT * cap:
        return None
    share = f"{_percent(used, cap)}% ({used} / {cap} Tokens)"
    if 100 * used < FULL * cap:
        return Reminder(
            "token-budget",
            "warn",
            f"{quota.agent} hat {share} seines Tagesbudgets verbraucht. Plane sparsam, vermeide überflüssige Aufrufe"
            " und komm bald zum Ende.",
        )
    return Reminder(
        "token-budget",
        "escalate",
        f"Das Tagesbudget von {quota.agent} ist ausgeschoepft: {share}. Schließe JETZT mit einer Zusammenfassung ab;"
        " weitere Runden werden abgeschnitten.",
    )


def retry_loop(state: State) -> Reminder | None:
    if state.round < RETRY_ROUND or len(state.recent) < 2 or any(state.recent[-2:]):
        return None
    return Reminder(
        "retry-loop",
        "warn",
        "Die letzten 2 Aufrufe sind fehlgeschlagen. Versuche es nicht weiter, sondern fasse zusammen, was nicht ging.",
    )


def with_reminders(messages: Sequence[Message], reminders: Sequence[Reminder]) -> list[Message]:
    """The request, with the reminders at the end of its one system message.

    Some endpoints keep only one system message, and some read a tool's result as JSON: a message of its own, or text
    after a result, would be lost there, or replace what must stay.
    """
    if not reminders:
        return list(messages)
    system, *rest = messages
    said = "".join(f"\n\n<reminder>{reminder.text}</reminder>" for reminder in reminders)
    return [{**system, "content": system["content"] + said}, *rest]


def _percent(used: int, cap: int) -> int:
    # Half up.
    return (200 * used + cap) // (2 * cap)
