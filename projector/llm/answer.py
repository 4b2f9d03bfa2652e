"""Reads the body of a chat completion; the format is OpenAI's `chat.completion` object."""

from __future__ import annotations

from typing import Any

import orjson

from projector.errors import ChatAnswerError
from projector.llm.chat import Completion, ToolCall
from projector.llm.providers.wire import count

MAX_TOKENS = 1_000_000_000
"""More than any call costs, and little enough to be added up for ever."""
KNOWN_FINISH = {"stop", "tool_calls", "length", "content_filter"}


def completion_from(answer: Any) -> Completion:
    """Of what the body holds. Raises ChatAnswerError, with what it cost, when there is no usable first choice.

    Missing usage is 0 tokens.
    """
    usage = answer.get("usage") if isinstance(answer, dict) else None
    prompt, completed = token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens")
    try:
        choice = answer["choices"][0]
        message = choice["message"]
        content, calls = message.get("content"), message.get("tool_calls") or []
        tool_calls = tuple(_tool_call(call) for call in calls)
    except (KeyError, IndexError, TypeError, AttributeError):
        raise ChatAnswerError("the endpoint's answer has no usable choice", prompt, completed) from None
    finish = choice.get("finish_reason")
    return Completion(
        content=content if isinstance(content, str) else None,
        tool_calls=tool_calls,
        finish_reason=finish if isinstance(finish, str) and finish in KNOWN_FINISH else "stop",
        prompt_tokens=prompt,
        completion_tokens=completed,
        model=str(answer.get("model") or "")[:200],
    )


def json_object(text: str | bytes) -> dict[str, Any] | None:
    """None for what is no JSON object."""
    try:
        found = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _tool_call(call: Any) -> ToolCall:
    function = call["function"]
    raw = function.get("arguments")
    if isinstance(raw, dict):  # some endpoints send the object itself
        raw = orjson.dumps(raw).decode()
    raw = raw if isinstance(raw, str) else ""
    return ToolCall(
        id=str(call.get("id") or ""),
        name=str(function["name"]),
        arguments=json_object(raw) if raw else {},
        raw=raw,
    )


def token_count(usage: object, kind: str) -> int:
    return min(count(usage.get(kind)), MAX_TOKENS) if isinstance(usage, dict) else 0
