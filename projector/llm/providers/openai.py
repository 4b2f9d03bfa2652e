"""OpenAI's chat completions, as dozens of servers speak them. Requests and answers pass through as they are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from projector.errors import AnswerFormatError, BlockedError, RouteError, UpstreamError
from projector.llm.answer import json_object
from projector.llm.config import Provider
from projector.llm.providers.status import as_status, safe, status_error
from projector.llm.providers.wire import Body, Call, Reader, reading

# What an error inside an answer of status 200 stands for when it gives no status.
_CODES = {
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "context_length_exceeded": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "invalid_request_error": 400,
}


class OpenAIWire:
    """`{base_url}/chat/completions`."""

    def chat(self, provider: Provider, key: str, model: str, body: Body, *, stream: bool) -> Call:
        request = {**body, "model": model, "stream": stream}
        if stream and provider.stream_usage and "stream_options" not in body:
            request["stream_options"] = {"include_usage": True}
        return Call(f"{provider.base_url}/chat/completions", self._headers(key), orjson.dumps(request))

    def answer(self, body: bytes) -> Body:
        answer = json_object(body)
        if answer is None:
            raise AnswerFormatError("the answer is no JSON object", status=200)
        with reading(answer.get("usage")):
            _check(answer)
        return answer

    def reader(self) -> Reader:
        return _Reader()

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> RouteError:
        answer = json_object(body)
        if answer is None:
            # Of a proxy on the way, as a rule.
            return _error(body.decode("utf-8", "replace"), status, headers)
        return _error(answer.get("error") or answer.get("detail"), status, headers)

    def lacks(self, body: Body) -> bool:
        return False

    def inventory(self, provider: Provider, key: str) -> Call:
        return Call(provider.base_url + (provider.probe_path or "/models"), self._headers(key))

    def models(self, body: bytes) -> frozenset[str]:
        listed = (json_object(body) or {}).get("data")
        if not isinstance(listed, list):
            raise AnswerFormatError("the list of models is none")
        return frozenset(str(item["id"]) for item in listed if isinstance(item, dict) and "id" in item)

    @staticmethod
    def _headers(key: str) -> dict[str, str]:
        headers = {"content-type": "application/json"}
        if key:
            headers["authorization"] = f"Bearer {key}"
        return headers


def _check(answer: Body) -> None:
    """Raises what an answer that is none means."""
    if (error := answer.get("error")) is not None:
        raise _error(error, 200, {})
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        raise AnswerFormatError("the answer has no choices", status=200)
    for choice in choices:
        message = choice.get("message") if isinstance(choice, dict) else None
        if not isinstance(message, dict):
            raise AnswerFormatError("the answer has a choice without a message", status=200)
        if not _has_form(message.get("tool_calls")):
            raise AnswerFormatError("the answer has a tool call without a function's name", status=200)
        finish = choice.get("finish_reason")
        if finish == "error":
            raise UpstreamError("the answer ends with an error", status=200)
        if finish == "content_filter" and not message.get("content") and not message.get("tool_calls"):
            raise BlockedError("the content policy left nothing of the answer", status=200)


def _has_form(calls: Any) -> bool:
    """Whether these are calls that whoever asked can read, or none."""
    return not calls or (
        isinstance(calls, list)
        and all(
            isinstance(call, dict)
            and isinstance(function := call.get("function"), dict)
            and isinstance(function.get("name"), str)
            for call in calls
        )
    )


class _Reader:
    def __init__(self) -> None:
        self.skipped = 0
        self.complete = False
        self.done = False
        self.usage: Body | None = None
        self._unreadable = False

    def event(self, data: bytes) -> list[Body]:
        if data == b"[DONE]" or data.strip() == b"[DONE]":
            self.complete = self.done = True
            return []
        chunk = json_object(data)
        if chunk is None:
            if self._unreadable:
                raise AnswerFormatError("two events of the stream are no JSON")
            self._unreadable = True
            self.skipped += 1
            return []
        self.usage = chunk.get("usage") or self.usage
        if (error := chunk.get("error")) is not None:
            raise _error(error, 200, {})
        choices = chunk.get("choices")
        for choice in choices if isinstance(choices, list) else ():
            finish = choice.get("finish_reason") if isinstance(choice, dict) else None
            if finish == "error":
                raise UpstreamError("the stream ends with an error", status=200)
            if finish:
                self.complete = True
        return [chunk]


def _error(error: Any, status: int, headers: Mapping[str, str]) -> RouteError:
    """Of an error object, or of a text in its place."""
    if not isinstance(error, dict):
        error = {"message": error if isinstance(error, str) else ""}
    code = error.get("code")
    name = safe(code if isinstance(code, str) and not code.isdecimal() else None)
    name = name or safe(error.get("type") or error.get("kind"))
    if status == 200:
        status = as_status(code, _CODES.get(name, 502))
    inner = error.get("innererror")
    if isinstance(inner, dict) and safe(inner.get("code")):
        name = safe(inner.get("code"))
    metadata = error.get("metadata")
    # OpenRouter's way to say that a moderation flagged the input.
    blocked = isinstance(metadata, dict) and bool(metadata.get("reasons"))
    return status_error(status, name, headers=headers, detail=str(error.get("message") or ""), blocked=blocked)
