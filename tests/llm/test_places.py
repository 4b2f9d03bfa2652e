"""Places for calls at one provider; the number is that of 11.4."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from projector.config import Settings
from projector.errors import DeadlineError
from projector.llm.routed import RoutedChat
from projector.llm.router import LLMRouter
from tests.llm.test_router import FAST, told
from tests.llm.upstream import BODY, SILENT, Script, Upstream, answer, error, registry


async def test_11_4_at_most_four_calls_at_once_go_to_one_provider(tmp_path: Path):
    most = 0

    class Counting(Upstream):
        under_way = 0

        async def serve(self, *given: Any) -> bool:
            nonlocal most
            self.under_way += 1
            most = max(most, self.under_way)
            try:
                return await super().serve(*given)
            finally:
                self.under_way -= 1

    slow = Script(pieces=answer().pieces, wait_s=0.1)
    async with Counting(slow) as p1, Counting(error(500), slow) as p2:
        path = registry(tmp_path, "  mana/x: {chain: [p1/m1]}\n  mana/y: {chain: [p2/m1, p1/m1]}", p1=p1, p2=p2).path
        async with RoutedChat.from_settings(Settings(llm_config=str(path))) as chat:
            asked = [chat.complete(f"mana/{n}", BODY["messages"], [], run_id="r") for n in "xxxxxxyxxx"]
            found = [answered.model for answered in await asyncio.gather(*asked)]
    assert (found, most) == (["p1/m1"] * 10, 4)


async def test_who_waited_for_a_place_does_not_ask_what_the_call_before_found_silent(tmp_path: Path):
    async with Upstream(SILENT) as p1, Upstream(answer()) as p2:
        file = registry(tmp_path, more=FAST + "\nbreaker: {failure_threshold: 1}", p1=p1, p2=p2)
        async with LLMRouter(file, places=1) as router:
            found = await asyncio.gather(router.complete(BODY), router.complete(BODY))
    assert [told(answered)[0][1] for answered in found] == ["timeout", "open"]
    assert (p1.calls, p2.calls) == (1, 2)


async def test_a_place_is_waited_for_within_the_deadline(tmp_path: Path):
    async with Upstream(SILENT) as p1:
        file = registry(tmp_path, more="budgets: {min_attempt_s: 0.1}", p1=p1)
        async with LLMRouter(file, places=1) as router, asyncio.timeout(5):
            first = asyncio.create_task(router.complete(BODY, deadline_s=60))
            while not p1.calls:
                await asyncio.sleep(0.01)
            with pytest.raises(DeadlineError) as caught:
                await router.complete(BODY, deadline_s=0.3)
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            p1.scripts = [answer()]
            assert (await router.complete(BODY)).resolved == "p1/m1", "the place is free again"
    assert told(caught.value) == [("p1/m1", "busy", None)]
