"""What the planner asks of a language model, whoever serves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Message = dict[str, Any]
"""A chat message in its wire form: `role`, `content`, `tool_calls`, `tool_call_id`."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """`arguments` None: what the model wrote (kept in `raw`) is no JSON object."""

    id: str
    name: str
    arguments: dict[str, Any] | None
    raw: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer. `finish_reason` is stop, tool_calls, length or content_filter; `model` as the endpoint named it.

    Token counts are 0 where the endpoint reports none. `cost` in US dollars, 0 where no price is known. `route`: what
    was tried, in order, like `groq/llama=timeout 504`; empty where one endpoint is all there is.
    """

    content: str | None
    tool_calls: tuple[ToolCall, ...] = field(default=())
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    completion_tokens: int = 0
    model: str = ""
    cost: float = 0.0
    route: tuple[str, ...] = ()


TEMPERATURE = 0.3
"""Of a conversation; it may be another one for what is no part of it."""


class ChatModel(Protocol):
    """Answers by alias. Raises ChatUnavailableError, ChatAnswerError or ChatRefusedError."""

    async def complete(
        self,
        alias: str,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        run_id: str,
        temperature: float = TEMPERATURE,
    ) -> Completion: ...


def request(
    alias: str, messages: Sequence[Message], tools: Sequence[dict[str, Any]], temperature: float
) -> dict[str, Any]:
    """The body of a request for a chat completion."""
    body: dict[str, Any] = {"model": alias, "messages": list(messages), "temperature": temperature}
    if tools:
        body |= {"tools": list(tools), "tool_choice": "auto"}
    return body
