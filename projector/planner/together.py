"""One question to the database for what many runs ask at the same moment."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import psycopg

MOST = 64
"""Asked at once: a bound on the size of a statement and on how long its locks are held."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Together(Generic[Asked, Answer]):
    """Gathers what is asked for while an earlier question is under way, and asks for all of it at once.

    So nobody waits for a group to fill: alone, a caller's question goes out at once, and under load groups grow by
    themselves. `ask_all` returns what to answer each, in order; an exception among the answers is raised to that
    caller alone. What goes wrong with a group is asked again one by one, so that the fault of one is no other's; only
    a server that is away is so for all.
    """

    def __init__(
        self,
        ask_all: Callable[[Sequence[Asked]], Awaitable[Sequence[Answer | Exception]]],
        *,
        most: int = MOST,
        always: bool = False,
    ) -> None:
        """`always`: also what a caller asked who has given up, because it is worth having done."""
        self._ask_all = ask_all
        self._most = most
        self._always = always
        self._waiting: deque[tuple[Asked, asyncio.Future[Answer]]] = deque()
        self._asking: asyncio.Task[None] | None = None

    async def ask(self, asked: Asked) -> Answer:
        """The answer. A caller that is cancelled gives up waiting; what was sent for it already takes its course."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((asked, answer))
        if self._asking is None:
            self._asking = asyncio.create_task(self._ask_for_all())
        return await answer

    async def settled(self) -> None:
        """Waits until nothing is under way."""
        while self._asking is not None:
            await asyncio.wait({self._asking})

    async def _ask_for_all(self) -> None:
        try:
            while self._waiting:
                group = [self._waiting.popleft() for _ in range(min(len(self._waiting), self._most))]
                await self._answer([one for one in group if self._always or not one[1].done()])
        finally:
            self._asking = None
            for _, answer in self._waiting:
                answer.cancel()
            self._waiting.clear()

    async def _answer(self, group: list[tuple[Asked, asyncio.Future[Answer]]]) -> None:
        if not group:
            return
        answers: Sequence[Answer | Exception]
        try:
            answers = await self._ask_all([asked for asked, _ in group])
            if len(answers) != len(group):
                raise RuntimeError(f"{len(answers)} answers to {len(group)} questions")
        except Exception as error:
            if len(group) > 1 and _is_one_ones_fault(error):
                for one in group:
                    await self._answer([one])
                return
            answers = [error] * len(group)
        for (_, future), answer in zip(group, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)


def _is_one_ones_fault(error: Exception) -> bool:
    """Whether the others may well be answered: always, unless the server is away. A deadlock or a lock's timeout says
    that it is there.
    """
    return not isinstance(error, psycopg.OperationalError) or (error.sqlstate or "")[:2] in {"40", "55"}
