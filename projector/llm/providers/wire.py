"""What a kind of provider must know: a request in OpenAI's form becomes bytes, and bytes become an answer in it.

Nothing here does I/O. Answers and chunks are OpenAI's `chat.completion` and `chat.completion.chunk`, as dicts.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from projector.errors import AnswerFormatError, RouteError
from projector.llm.config import Provider

Body = dict[str, Any]
SHAPE = (KeyError, TypeError, AttributeError, IndexError, ValueError)
"""What reading a value of another shape than expected raises."""


@dataclass(frozen=True, slots=True)
class Call:
    """One HTTP request. `body` None: a GET."""

    url: str
    headers: Mapping[str, str] = field(repr=False)
    body: bytes | None = field(repr=False, default=None)


class Reader(Protocol):
    """Reads one stream. `skipped` counts events that were no JSON; `complete`: the answer is whole, though what it
    cost may still follow; `done`: nothing follows. `usage` is the latest that was told of the cost, also by an event
    that reports a failure; None until then.
    """

    skipped: int
    complete: bool
    done: bool
    usage: Body | None

    def event(self, data: bytes) -> list[Body]:
        """The chunks that follow from one event. Raises a RouteError when the provider reports a failure."""
        ...


class Wire(Protocol):
    """One kind of provider. All that raises, raises RouteErrors."""

    def chat(self, provider: Provider, key: str, model: str, body: Body, *, stream: bool) -> Call: ...

    def answer(self, body: bytes) -> Body:
        """The completion in a body of status 200."""
        ...

    def reader(self) -> Reader: ...

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> RouteError:
        """What a status other than 200 means."""
        ...

    def lacks(self, body: Body) -> bool:
        """Whether the request asks for something that this kind of provider has no word for."""
        ...

    def inventory(self, provider: Provider, key: str) -> Call: ...

    def models(self, body: bytes) -> frozenset[str]:
        """The names in an answer to `inventory`."""
        ...


def unworded(body: Body) -> bool:
    """Whether a request holds what only OpenAI's own format has a word for: other content than text and pictures,
    functions in place of tools, or several answers at once.
    """
    if body.get("functions") or body.get("function_call") or (body.get("n") or 1) > 1:
        return True
    for message in body["messages"]:
        content = message.get("content")
        if message.get("role") == "function" or message.get("function_call"):
            return True
        if isinstance(content, list) and any(part.get("type") not in ("text", "image_url") for part in content):
            return True
    return False


def completion(message: Body, finish: str | None, usage: Body | None, *, id: str = "") -> Body:  # noqa: A002
    """A `chat.completion` made of what another format says."""
    return {
        "id": id or f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": usage,
    }


def tokens(prompt: object, completed: object) -> Body:
    """The `usage` of an answer; what is no count is 0."""
    prompt_tokens, completion_tokens = count(prompt), count(completed)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


@contextmanager
def reading(usage: Body | None = None) -> Iterator[None]:
    """Inside, an answer is read. One of another shape than expected raises AnswerFormatError; and whatever is raised
    says what the answer cost, which is `usage`: one of no use costs as much as any.
    """
    try:
        yield
    except RouteError as error:
        if error.usage is None:
            error.usage = usage
        raise
    except SHAPE as error:
        wrong = AnswerFormatError(f"the answer has an unexpected form: {type(error).__name__}", status=200)
        wrong.usage = usage
        raise wrong from error


def count(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


class Chunks:
    """Makes the `chat.completion.chunk`s of one stream, all with the same id."""

    def __init__(self, id: str = "") -> None:  # noqa: A002
        self._frame: Body = {
            "id": id or f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": "",
        }

    def delta(self, delta: Body, finish: str | None = None) -> Body:
        return {**self._frame, "choices": [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]}

    def usage(self, usage: Body) -> Body:
        return {**self._frame, "choices": [], "usage": usage}
