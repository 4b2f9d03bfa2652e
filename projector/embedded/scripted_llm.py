"""A stand-in for a language model on loopback: `python -m projector.embedded.scripted_llm --port N`.

It speaks OpenAI's chat completions and thinks nothing. The first request of a conversation is answered with calls
of two of the tools offered, the next with a closing text, always the same ones for the same mission. It says in
each text that it is scripted. `GET /calls` tells how often it was asked, in all and per run.
"""

from __future__ import annotations

import argparse
import asyncio
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

_TITLE = re.compile(r"^# Mission: (.+)$", re.MULTILINE)
MODEL = "scripted/no-model"
CALLS_AT_FIRST = 2
# The tools whose effect is easiest to see, if they are offered.
FAVOURITES = ("create_task", "create_note")
CLOSING = "Kein Sprachmodell, sondern eine feste Antwort (scripted): {count} Schritte für „{title}“ sind geplant."
NOTHING = "Kein Sprachmodell, sondern eine feste Antwort (scripted): für „{title}“ gibt es kein Werkzeug."
FILLING = "Vorschlag einer festen Antwort (scripted) zur Mission „{title}“"
SAMPLES: dict[str, Any] = {"number": 1, "integer": 1, "boolean": False, "array": [], "object": {}}


def make_app(*, delay_s: float = 0.0) -> FastAPI:
    """The application; `delay_s` is how long each answer takes."""
    app = FastAPI(title="Scripted chat completions", openapi_url=None)
    calls: Counter[str] = Counter()

    @app.post("/v1/chat/completions")
    async def complete(request: Request) -> JSONResponse:
        body = orjson.loads(await request.body())
        calls[request.headers.get("x-run-id", "")] += 1
        await asyncio.sleep(delay_s)
        return JSONResponse(answer_to(body))

    @app.get("/calls")
    async def counts() -> dict[str, Any]:
        return {"total": calls.total(), "runs": dict(calls)}

    return app


def answer_to(body: dict[str, Any]) -> dict[str, Any]:
    """The answer to one request, a function of the request alone."""
    messages, tools = body["messages"], body.get("tools") or []
    title = _title(messages)
    results = [message for message in messages if message["role"] == "tool"]
    chosen = [] if results else _choose(tools)
    message: dict[str, Any] = {"role": "assistant", "content": None}
    if chosen:
        message["tool_calls"] = [
            {
                "id": f"call_{index}",
                "type": "function",
                "function": {"name": tool["name"], "arguments": orjson.dumps(_arguments(tool, title)).decode()},
            }
            for index, tool in enumerate(chosen)
        ]
    else:
        message["content"] = (CLOSING if results else NOTHING).format(count=len(results), title=title)
    prompt_tokens = sum(len(str(entry.get("content") or "")) for entry in messages) // 4
    completion_tokens = len(orjson.dumps(message)) // 4
    return {
        "object": "chat.completion",
        "model": MODEL,
        "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls" if chosen else "stop"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def _title(messages: Sequence[dict[str, Any]]) -> str:
    asked = next((str(message["content"]) for message in messages if message["role"] == "user"), "")
    found = _TITLE.search(asked)
    return found[1].strip()[:80] if found else ""


def _choose(tools: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    functions = [tool["function"] for tool in tools]
    # A stable sort: after the favourites comes whatever else is offered, in its order.
    functions.sort(key=lambda tool: FAVOURITES.index(tool["name"]) if tool["name"] in FAVOURITES else len(FAVOURITES))
    return functions[:CALLS_AT_FIRST]


def _arguments(tool: dict[str, Any], title: str) -> dict[str, Any]:
    schema = tool["parameters"]
    return {name: _value(schema["properties"][name], title) for name in schema["required"]}


def _value(parameter: dict[str, Any], title: str) -> Any:
    if parameter.get("enum"):
        return parameter["enum"][0]
    return SAMPLES.get(parameter["type"], FILLING.format(title=title))


def main() -> None:
    """Serves until it is ended; on loopback, unless told otherwise."""
    parser = argparse.ArgumentParser(description="A scripted stand-in for a language model.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each answer takes")
    options = parser.parse_args()
    uvicorn.run(make_app(delay_s=options.delay), host=options.host, port=options.port, log_level="warning")


if __name__ == "__main__":
    main()
