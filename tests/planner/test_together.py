from __future__ import annotations

import asyncio
from collections.abc import Sequence

import psycopg
import pytest

from projector.errors import LeaseLostError
from projector.planner.together import Together


class Server:
    """Answers numbers with their doubles, one group at a time; `-1` loses its lease, `faults` are refused."""

    def __init__(self, **faults: Exception) -> None:
        self.groups: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()
        self._faults = faults

    async def ask_all(self, asked: Sequence[int]) -> list[int | Exception]:
        self.groups.append(list(asked))
        await self.free.wait()
        for one in asked:
            if str(one) in self._faults:
                raise self._faults[str(one)]
        return [LeaseLostError("lost") if one == -1 else one * 2 for one in asked]


async def under_way(server: Server) -> None:
    while not server.groups:
        await asyncio.sleep(0)


async def test_what_is_asked_while_a_question_is_under_way_goes_out_as_one_and_each_gets_its_answer():
    server = Server()
    server.free.clear()
    together = Together(server.ask_all, most=3)
    first = asyncio.create_task(together.ask(1))
    await under_way(server)
    others = [asyncio.create_task(together.ask(n)) for n in (2, -1, 3, 4)]
    await asyncio.sleep(0)
    server.free.set()
    answers = await asyncio.gather(first, *others, return_exceptions=True)
    assert server.groups == [[1], [2, -1, 3], [4]]
    assert [a if isinstance(a, int) else type(a) for a in answers] == [2, 4, LeaseLostError, 6, 8]
    assert await together.ask(5) == 10


@pytest.mark.parametrize("error", [psycopg.errors.CheckViolation, psycopg.errors.DeadlockDetected])
async def test_what_the_server_refuses_to_a_group_is_asked_one_by_one(error: type[psycopg.Error]):
    server = Server(**{"2": error("no")})
    together = Together(server.ask_all)
    answers = await asyncio.gather(*(together.ask(n) for n in (1, 2, 3)), return_exceptions=True)
    assert [a if isinstance(a, int) else type(a) for a in answers] == [2, error, 6]
    assert server.groups == [[1, 2, 3], [1], [2], [3]]


async def test_a_server_that_is_away_is_not_asked_again_for_each():
    server = Server(**{"2": psycopg.OperationalError("connection refused")})
    together = Together(server.ask_all)
    answers = await asyncio.gather(*(together.ask(n) for n in (1, 2, 3)), return_exceptions=True)
    assert {type(answer) for answer in answers} == {psycopg.OperationalError}
    assert server.groups == [[1, 2, 3]]


async def test_a_caller_that_gives_up_is_not_asked_for_and_delays_nobody():
    server = Server()
    server.free.clear()
    together = Together(server.ask_all)
    first, second, third = (asyncio.create_task(together.ask(n)) for n in (1, 2, 3))
    await under_way(server)
    third.cancel()
    late = [asyncio.create_task(together.ask(n)) for n in (4, 5)]
    await asyncio.sleep(0)
    late[0].cancel()
    await asyncio.sleep(0)
    settling = asyncio.create_task(together.settled())
    await asyncio.sleep(0)
    assert not settling.done()
    server.free.set()
    await settling
    assert (await first, await second, await late[1]) == (2, 4, 10)
    assert server.groups == [[1, 2, 3], [5]]


async def test_a_fault_of_ours_in_a_group_is_the_fault_of_one():
    server = Server(**{"2": KeyError("ours")})
    together = Together(server.ask_all)
    answers = await asyncio.gather(*(together.ask(n) for n in (1, 2, 3)), return_exceptions=True)
    assert [a if isinstance(a, int) else type(a) for a in answers] == [2, KeyError, 6]


async def test_what_is_worth_having_done_is_done_for_a_caller_that_has_given_up():
    server = Server()
    server.free.clear()
    together = Together(server.ask_all, always=True)
    first = asyncio.create_task(together.ask(1))
    await under_way(server)
    second = asyncio.create_task(together.ask(2))
    await asyncio.sleep(0)
    second.cancel()
    server.free.set()
    await together.settled()
    assert (await first, server.groups) == (2, [[1], [2]])


async def test_too_few_answers_leave_nobody_waiting():
    async def one(asked: Sequence[int]) -> list[int]:
        return [0]

    together = Together(one)
    async with asyncio.timeout(5):
        answers = await asyncio.gather(together.ask(1), together.ask(2), return_exceptions=True)
    assert answers == [0, 0]  # asked again one by one
