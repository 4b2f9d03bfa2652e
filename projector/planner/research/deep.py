"""Deep research: a job that is submitted, and asked for until it has ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import quote

from projector.errors import ResearchUnavailableError
from projector.planner.research.http import Service

SUBMIT_S, POLL_S = 30.0, 15.0
PATH = "/api/v1/internal/research/async"
MAX_QUERY = 4000
"""UTF-16 units; the service refuses longer ones."""
MOST_CREDITS = 1e9
"""Beyond it a price is none."""

Ended = Literal["completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Polled:
    """`ended` None: it goes on. `answer` is as the service gave it, None without a text in it."""

    ended: Ended | None
    answer: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Submitted:
    """`credits`: what the service says that the task costs its user, None if it does not."""

    task_id: str
    credits: float | None


class DeepResearch:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def submit(self, query: str, provider: str, *, user_id: str, key: str) -> Submitted:
        """Submitting twice under one `key` makes one task, where the service honours it.

        Raises ResearchUnavailableError or ResearchRefusedError.
        """
        answer = await self._service.post(
            PATH, {"query": query, "provider": provider}, user_id=user_id, timeout_s=SUBMIT_S, idempotency_key=key
        )
        task_id = answer.get("taskId")
        if not isinstance(task_id, str) or not task_id:
            raise ResearchUnavailableError("the answer names no task")
        return Submitted(task_id, _credits(answer.get("costCredits")))

    async def poll(self, task_id: str, *, user_id: str) -> Polled:
        """How the task stands. Raises ResearchUnavailableError or ResearchRefusedError."""
        reply = await self._service.get(f"{PATH}/{quote(task_id, safe='')}", user_id=user_id, timeout_s=POLL_S)
        match reply.get("status"):
            case "queued" | "running":
                return Polled(None)
            case "completed":
                return Polled("completed", _answer(reply.get("result")))
            case "failed" | "cancelled" as ended:
                return Polled(ended)
        raise ResearchUnavailableError("the answer has no status that we know")


def _credits(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < MOST_CREDITS:
        return None
    return float(value)


def _answer(result: object) -> dict[str, Any] | None:
    answer = result.get("answer") if isinstance(result, dict) else None
    text = answer.get("answer") if isinstance(answer, dict) else None
    return answer if isinstance(text, str) and text.strip() else None
