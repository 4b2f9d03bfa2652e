"""A request for a chat completion, checked as far as every provider would refuse it."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any

import orjson

_MODEL = re.compile(r"[\x21-\x7e]{0,200}")
ROLES = {"system", "developer", "user", "assistant", "tool", "function"}
FORMATS = {"text", "json_object", "json_schema"}
CHOICES = {"none", "auto", "required"}


class WrongRequest(Exception):
    """`param` is the field at fault."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


def read_request(data: bytes) -> dict[str, Any]:
    """Raises WrongRequest. Fields that are not known here are kept as they are."""
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError:
        raise WrongRequest("the body is no JSON") from None
    if not isinstance(body, dict):
        raise WrongRequest("the body must be an object")
    model = body.get("model")
    if model is not None and not (isinstance(model, str) and _MODEL.fullmatch(model)):
        raise WrongRequest("must be a name of at most 200 printable characters without spaces", "model")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise WrongRequest("must be a list of at least one message", "messages")
    for index, message in enumerate(messages):
        if not isinstance(message, dict) or not _one_of(message.get("role"), ROLES):
            raise WrongRequest("must be an object with a role", f"messages[{index}]")
    for name, holds, told in _FIELDS:
        value = body.get(name)
        if value is not None and not holds(value):
            raise WrongRequest(f"must be {told}", name)
    return body


def _one_of(value: Any, names: Collection[str]) -> bool:
    return isinstance(value, str) and value in names


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


def _positive(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _stop(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(text, str) for text in value))


def _format(value: Any) -> bool:
    return isinstance(value, dict) and _one_of(value.get("type"), FORMATS)


def _tools(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(tool, dict)
        and (not isinstance(function := tool.get("function"), dict) or isinstance(function.get("name"), str))
        for tool in value
    )


_FIELDS: list[tuple[str, Callable[[Any], bool], str]] = [
    ("stream", lambda value: isinstance(value, bool), "true or false"),
    ("temperature", _number(0, 2), "a number from 0 to 2"),
    ("top_p", _number(0, 1), "a number from 0 to 1"),
    ("presence_penalty", _number(-2, 2), "a number from -2 to 2"),
    ("frequency_penalty", _number(-2, 2), "a number from -2 to 2"),
    ("max_tokens", _positive, "a whole number above 0"),
    ("max_completion_tokens", _positive, "a whole number above 0"),
    ("n", _positive, "a whole number above 0"),
    ("stop", _stop, "a string or a list of strings"),
    ("tools", _tools, "a list of tools"),
    ("tool_choice", lambda v: isinstance(v, dict) or _one_of(v, CHOICES), "none, auto, required or an object"),
    ("response_format", _format, "an object with a known type"),
]
