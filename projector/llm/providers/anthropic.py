"""Anthropic's Messages API."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import orjson

from projector.errors import AnswerFormatError, BadRequestError, BlockedError, RouteError
from projector.llm.answer import json_object
from projector.llm.config import Provider
from projector.llm.providers.status import safe, status_error
from projector.llm.providers.wire import Body, Call, Chunks, Reader, completion, count, reading, tokens, unworded

VERSION = "2023-06-01"
MOST_TOKENS = 4096
"""The API wants a limit; this is it where the request gives none."""
_FINISH = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",
    "tool_use": "tool_calls",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
}
_STATUS = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


class AnthropicWire:
    """`{base_url}/messages`."""

    def chat(self, provider: Provider, key: str, model: str, body: Body, *, stream: bool) -> Call:
        return Call(f"{provider.base_url}/messages", _headers(key), orjson.dumps(_request(model, body, stream)))

    def answer(self, body: bytes) -> Body:
        answer = json_object(body)
        if answer is None:
            raise AnswerFormatError("the answer is no JSON object", status=200)
        if answer.get("type") == "error":
            raise _error(answer, None, {})
        usage = _usage(answer.get("usage"))
        with reading(usage):
            message = _message(answer)
        return completion(message, _finish(answer.get("stop_reason")), usage, id=safe(answer.get("id")))

    def reader(self) -> Reader:
        return _Reader()

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> RouteError:
        return _error(json_object(body) or {}, status, headers)

    def lacks(self, body: Body) -> bool:
        # It answers by a schema, but has no mode for just any JSON.
        wanted = body.get("response_format")
        return unworded(body) or (isinstance(wanted, dict) and wanted.get("type") == "json_object")

    def inventory(self, provider: Provider, key: str) -> Call:
        return Call(provider.base_url + (provider.probe_path or "/models"), _headers(key))

    def models(self, body: bytes) -> frozenset[str]:
        listed = (json_object(body) or {}).get("data")
        if not isinstance(listed, list):
            raise AnswerFormatError("the list of models is none")
        return frozenset(str(item["id"]) for item in listed if isinstance(item, dict) and "id" in item)


def _headers(key: str) -> dict[str, str]:
    return {"content-type": "application/json", "anthropic-version": VERSION} | ({"x-api-key": key} if key else {})


# The request


def _request(model: str, body: Body, stream: bool) -> Body:
    request: Body = {
        "model": model,
        "max_tokens": body.get("max_completion_tokens") or body.get("max_tokens") or MOST_TOKENS,
        "messages": _messages(body["messages"]),
        "stream": stream,
    }
    if system := [text for m in body["messages"] if m.get("role") in ("system", "developer") for text in _texts(m)]:
        request["system"] = "\n\n".join(system)
    if (temperature := body.get("temperature")) is not None:
        # Its scale ends at 1 where OpenAI's ends at 2.
        request["temperature"] = min(temperature, 1)
    if (top_p := body.get("top_p")) is not None:
        request["top_p"] = top_p
    if stop := body.get("stop"):
        request["stop_sequences"] = [stop] if isinstance(stop, str) else stop
    if tools := body.get("tools"):
        request["tools"] = [_tool(tool["function"]) for tool in tools]
        if (choice := _choice(body.get("tool_choice"), body.get("parallel_tool_calls"))) is not None:
            request["tool_choice"] = choice
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") == "json_schema":
        request["output_config"] = {"format": {"type": "json_schema", "schema": wanted["json_schema"]["schema"]}}
    if isinstance(user := body.get("user"), str):
        request["metadata"] = {"user_id": user}
    return request


def _tool(function: Body) -> Body:
    tool: Body = {"name": function["name"], "input_schema": function.get("parameters") or {"type": "object"}}
    if description := function.get("description"):
        tool["description"] = description
    return tool


def _choice(choice: Any, parallel: Any) -> Body | None:
    if isinstance(choice, dict):
        made: Body = {"type": "tool", "name": choice["function"]["name"]}
    elif choice in ("auto", "none"):
        made = {"type": choice}
    elif choice == "required":
        made = {"type": "any"}
    elif parallel is False:
        made = {"type": "auto"}
    else:
        return None
    if parallel is False and made["type"] != "none":
        made["disable_parallel_tool_use"] = True
    return made


def _messages(messages: list[Body]) -> list[Body]:
    """Turns of user and assistant in alternation: neighbours of one role become one turn."""
    turns: list[Body] = []
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            continue
        blocks = _blocks(message)
        role = "assistant" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] += blocks
        elif blocks:
            turns.append({"role": role, "content": blocks})
    return turns


def _blocks(message: Body) -> list[Body]:
    if message.get("role") == "tool":
        result = "\n".join(_texts(message))
        return [{"type": "tool_result", "tool_use_id": message.get("tool_call_id"), "content": result}]
    content = message.get("content")
    blocks: list[Body] = []
    if isinstance(content, str):
        # An empty text is refused.
        blocks = [{"type": "text", "text": content}] if content else []
    elif isinstance(content, list):
        blocks = [_part(part) for part in content]
    for call in message.get("tool_calls") or ():
        function = call["function"]
        arguments = json_object(function.get("arguments") or "{}")
        blocks.append({"type": "tool_use", "id": call["id"], "name": function["name"], "input": arguments or {}})
    return blocks


def _part(part: Body) -> Body:
    kind = part.get("type")
    if kind == "text":
        return {"type": "text", "text": part.get("text")}
    if kind == "image_url":
        url = str(part["image_url"]["url"])
        if not url.startswith("data:"):
            return {"type": "image", "source": {"type": "url", "url": url}}
        media_type, data = inline(url)
        return {"type": "image", "source": {"type": "base64", "media_type": media_type, "data": data}}
    raise BadRequestError(f"content of type {safe(kind) or 'unknown'} cannot be sent to this provider")


def inline(url: str) -> tuple[str, str]:
    """Media type and base64 of a data URL; raises BadRequestError."""
    head, comma, data = url.removeprefix("data:").partition(",")
    media_type, _, encoding = head.partition(";")
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        comma = ""
    if not comma or encoding != "base64" or not media_type:
        raise BadRequestError("a data URL must be data:<media type>;base64,<data>")
    return media_type, data


def _texts(message: Body) -> list[str]:
    content = message.get("content")
    if isinstance(content, str):
        return [content]
    return [str(part.get("text") or "") for part in content or () if isinstance(part, dict)]


# The answer


def _message(answer: Body) -> Body:
    blocks = answer.get("content")
    if not isinstance(blocks, list):
        raise AnswerFormatError("the answer has no content", status=200)
    blocks = [block for block in blocks if isinstance(block, dict)]
    text = "".join(str(block.get("text") or "") for block in blocks if block.get("type") == "text")
    calls = [
        {
            "id": str(block["id"]),
            "type": "function",
            "function": {"name": str(block["name"]), "arguments": orjson.dumps(block["input"]).decode()},
        }
        for block in blocks
        if block.get("type") == "tool_use"
    ]
    if answer.get("stop_reason") == "refusal" and not text and not calls:
        raise BlockedError("the content policy left nothing of the answer", status=200)
    message: Body = {"role": "assistant", "content": text or None}
    if calls:
        message["tool_calls"] = calls
    return message


class _Reader:
    def __init__(self) -> None:
        self.skipped = 0
        self.complete = False
        self.done = False
        self.usage: Body | None = None
        self._chunks = Chunks()
        self._calls: dict[int, int] = {}

    def event(self, data: bytes) -> list[Body]:
        event = json_object(data)
        if event is None:
            self.skipped += 1
            if self.skipped > 1:
                raise AnswerFormatError("two events of the stream are no JSON")
            return []
        match event.get("type"):
            case "message_start":
                message = event.get("message") or {}
                self._chunks = Chunks(safe(message.get("id")))
                self.usage = _usage(message.get("usage"))
                return [self._chunks.delta({"role": "assistant", "content": ""})]
            case "content_block_start":
                return self._started(event)
            case "content_block_delta":
                return self._continued(event)
            case "message_delta":
                return self._ended(event)
            case "message_stop":
                self.complete = self.done = True
            case "error":
                raise _error(event, None, {})
        return []

    def _started(self, event: Body) -> list[Body]:
        block = event.get("content_block") or {}
        if block.get("type") != "tool_use":
            return []
        index = self._calls[event["index"]] = len(self._calls)
        call = {
            "index": index,
            "id": block["id"],
            "type": "function",
            "function": {"name": block["name"], "arguments": ""},
        }
        return [self._chunks.delta({"tool_calls": [call]})]

    def _continued(self, event: Body) -> list[Body]:
        delta = event.get("delta") or {}
        if delta.get("type") == "text_delta":
            return [self._chunks.delta({"content": delta.get("text")})]
        if delta.get("type") == "input_json_delta" and event.get("index") in self._calls:
            fragment = {"index": self._calls[event["index"]], "function": {"arguments": delta.get("partial_json")}}
            return [self._chunks.delta({"tool_calls": [fragment]})]
        return []

    def _ended(self, event: Body) -> list[Body]:
        stop = (event.get("delta") or {}).get("stop_reason")
        usage = event.get("usage") or {}
        self.complete = self.complete or stop is not None
        chunks = [self._chunks.delta({}, _finish(stop))] if stop is not None else []
        self.usage = tokens((self.usage or {}).get("prompt_tokens"), usage.get("output_tokens"))
        return [*chunks, self._chunks.usage(self.usage)]


def _finish(stop: object) -> str | None:
    return _FINISH.get(stop, safe(stop) or None) if isinstance(stop, str) else None


def _usage(usage: object) -> Body:
    completed = usage.get("output_tokens") if isinstance(usage, dict) else 0
    return tokens(_prompt_tokens(usage), completed)


def _prompt_tokens(usage: object) -> int:
    """What is read from a cache, or written into one, is counted beside the rest."""
    if not isinstance(usage, dict):
        return 0
    return sum(
        count(usage.get(name)) for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    )


def _error(answer: Body, status: int | None, headers: Mapping[str, str]) -> RouteError:
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    kind = safe(error.get("type"))
    if status is None:
        status = _STATUS.get(kind, 502)
    return status_error(status, kind, headers=headers, detail=str(error.get("message") or ""))
