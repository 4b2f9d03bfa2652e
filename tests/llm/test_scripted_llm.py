from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
import uvicorn

from projector.embedded.scripted_llm import answer_to, make_app
from projector.llm.client import OpenAIChat
from projector.planner.agent import agent_of
from projector.planner.catalogue import CATALOGUE
from projector.planner.mission import mission_of
from projector.planner.prompt import prompt_of
from projector.planner.tools import check_call, function_schema

PROMPT = prompt_of(mission_of({"title": "Pflanzen gießen"}), agent_of("a", {}), rounds=5)
OPENING = [{"role": "system", "content": PROMPT.system}, {"role": "user", "content": PROMPT.user}]
SCHEMAS = [function_schema(tool) for tool in CATALOGUE]


@pytest.fixture
async def scripted() -> AsyncIterator[str]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(make_app(), log_level="error"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving


async def test_it_calls_two_tools_first_and_closes_with_a_text_that_owns_up(scripted):
    offered = {tool.name: tool for tool in CATALOGUE}
    async with OpenAIChat(scripted) as chat:
        first = await chat.complete("m", OPENING, SCHEMAS, run_id="r1")
        assert [call.name for call in first.tool_calls] == ["create_task", "create_note"]
        assert all(check_call(offered, call.name, call.arguments) for call in first.tool_calls)
        assert "Pflanzen gießen" in str(first.tool_calls[0].arguments)
        results = [{"role": "tool", "tool_call_id": call.id, "content": "{}"} for call in first.tool_calls]
        last = await chat.complete("m", [*OPENING, *results], SCHEMAS, run_id="r1")
    assert last.tool_calls == ()
    assert "scripted" in str(last.content)
    assert last.prompt_tokens > 0
    assert last.completion_tokens > 0


async def test_it_counts_the_requests_of_each_run(scripted):
    async with OpenAIChat(scripted) as chat, aiohttp.ClientSession() as http:
        for run_id in ("r1", "r1", "r2"):
            await chat.complete("m", OPENING, SCHEMAS, run_id=run_id)
        async with http.get(f"{scripted}/calls") as told:
            assert await told.json() == {"total": 3, "runs": {"r1": 2, "r2": 1}}


def test_it_keeps_to_the_tools_that_are_offered():
    habits = [schema for schema in SCHEMAS if schema["function"]["name"] == "create_habit"]
    message = answer_to({"messages": OPENING, "tools": habits})["choices"][0]["message"]
    assert [call["function"]["name"] for call in message["tool_calls"]] == ["create_habit"]
    assert "scripted" in answer_to({"messages": OPENING})["choices"][0]["message"]["content"]
