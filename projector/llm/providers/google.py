"""Google's Gemini API."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import orjson

from projector.errors import (
    AnswerFormatError,
    BadRequestError,
    BlockedError,
    ModelNotFoundError,
    ProviderAuthError,
    RouteError,
)
from projector.llm.answer import json_object
from projector.llm.config import Provider
from projector.llm.providers.anthropic import inline
from projector.llm.providers.status import as_status, safe, status_error
from projector.llm.providers.wire import Body, Call, Chunks, Reader, completion, count, reading, tokens, unworded

_FINISH = {"STOP": "stop", "MAX_TOKENS": "length"}
_BLOCKED = {"SAFETY", "RECITATION", "PROHIBITED_CONTENT", "SPII", "BLOCKLIST", "IMAGE_SAFETY"}
_UNSIGNED = "skip_thought_signature_validator"
"""Stands for the signature of a call that another model made; newer models refuse a history without one."""
_SETTINGS = {
    "temperature": "temperature",
    "top_p": "topP",
    "max_tokens": "maxOutputTokens",
    "max_completion_tokens": "maxOutputTokens",
    "seed": "seed",
    "presence_penalty": "presencePenalty",
    "frequency_penalty": "frequencyPenalty",
}


class GoogleWire:
    """`{base_url}/models/{model}:generateContent`."""

    def chat(self, provider: Provider, key: str, model: str, body: Body, *, stream: bool) -> Call:
        verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
        if ".." in model:
            raise ModelNotFoundError("a model's name cannot lead out of its folder")
        url = f"{provider.base_url}/models/{quote(model, safe='/:@')}:{verb}"
        return Call(url, _headers(key), orjson.dumps(_request(body)))

    def answer(self, body: bytes) -> Body:
        answer = json_object(body)
        if answer is None:
            raise AnswerFormatError("the answer is no JSON object", status=200)
        if "error" in answer:
            raise _error(answer, None, {})
        with reading(_usage(answer)):
            candidate = _candidate(answer)
            if candidate is None:
                raise AnswerFormatError("the answer has no candidates", status=200)
            text, calls = _content(candidate, 0)
            finish = candidate.get("finishReason")
            if not text and not calls:
                if finish in _BLOCKED:
                    raise BlockedError("the content policy left nothing of the answer", status=200)
                if finish not in _FINISH or candidate.get("content", "") is None:
                    raise _nothing(finish)
        message: Body = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = [{key: value for key, value in call.items() if key != "index"} for call in calls]
        return completion(message, _finish(finish, bool(calls)), _usage(answer), id=safe(answer.get("responseId")))

    def reader(self) -> Reader:
        return _Reader()

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> RouteError:
        return _error(json_object(body) or {}, status, headers)

    def lacks(self, body: Body) -> bool:
        # Pictures are taken from the request or from Google's own storage, never fetched.
        return unworded(body) or any(
            isinstance(part, dict)
            and part.get("type") == "image_url"
            and not str((part.get("image_url") or {}).get("url")).startswith("data:")
            for message in body["messages"]
            if isinstance(message.get("content"), list)
            for part in message["content"]
        )

    def inventory(self, provider: Provider, key: str) -> Call:
        return Call(provider.base_url + (provider.probe_path or "/models?pageSize=1000"), _headers(key))

    def models(self, body: bytes) -> frozenset[str]:
        listed = (json_object(body) or {}).get("models")
        if not isinstance(listed, list):
            raise AnswerFormatError("the list of models is none")
        return frozenset(
            str(item["name"]).removeprefix("models/") for item in listed if isinstance(item, dict) and "name" in item
        )


def _headers(key: str) -> dict[str, str]:
    return {"content-type": "application/json"} | ({"x-goog-api-key": key} if key else {})


# The request


def _request(body: Body) -> Body:
    request: Body = {"contents": _contents(body["messages"])}
    system = [part for m in body["messages"] if m.get("role") in ("system", "developer") for part in _parts(m)]
    if system:
        request["systemInstruction"] = {"parts": system}
    generation = {to: body[name] for name, to in _SETTINGS.items() if body.get(name) is not None}
    if stop := body.get("stop"):
        generation["stopSequences"] = [stop] if isinstance(stop, str) else stop
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema"):
        generation["responseMimeType"] = "application/json"
        if wanted["type"] == "json_schema":
            generation["responseJsonSchema"] = wanted["json_schema"]["schema"]
    if generation:
        request["generationConfig"] = generation
    if tools := body.get("tools"):
        request["tools"] = [{"functionDeclarations": [_declaration(tool["function"]) for tool in tools]}]
        if (mode := _mode(body.get("tool_choice"))) is not None:
            request["toolConfig"] = {"functionCallingConfig": mode}
    return request


def _declaration(function: Body) -> Body:
    declaration: Body = {"name": function["name"]}
    if description := function.get("description"):
        declaration["description"] = description
    if parameters := function.get("parameters"):
        declaration["parametersJsonSchema"] = parameters
    return declaration


def _mode(choice: Any) -> Body | None:
    if isinstance(choice, dict):
        return {"mode": "ANY", "allowedFunctionNames": [choice["function"]["name"]]}
    modes = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
    return {"mode": modes[choice]} if choice in modes else None


def _contents(messages: list[Body]) -> list[Body]:
    """Turns of user and model; a result names its function, which only the call before it tells."""
    turns: list[Body] = []
    names: dict[str, str] = {}
    for message in messages:
        role = message.get("role")
        if role in ("system", "developer"):
            continue
        for call in message.get("tool_calls") or ():
            names[call["id"]] = call["function"]["name"]
        parts = _result(message, names) if role == "tool" else _parts(message) + _calls(message)
        turn = "model" if role == "assistant" else "user"
        if turns and turns[-1]["role"] == turn:
            turns[-1]["parts"] += parts
        elif parts:
            turns.append({"role": turn, "parts": parts})
    return turns


def _parts(message: Body) -> list[Body]:
    content = message.get("content")
    if isinstance(content, str):
        return [{"text": content}] if content else []
    return [_part(part) for part in content or ()]


def _part(part: Body) -> Body:
    kind = part.get("type")
    if kind == "text":
        return {"text": part.get("text")}
    if kind == "image_url":
        media_type, data = inline(str(part["image_url"]["url"]))
        return {"inlineData": {"mimeType": media_type, "data": data}}
    raise BadRequestError(f"content of type {safe(kind) or 'unknown'} cannot be sent to this provider")


def _calls(message: Body) -> list[Body]:
    parts = []
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        arguments = json_object(function.get("arguments") or "{}")
        part: Body = {"functionCall": {"name": function["name"], "args": arguments or {}}}
        google = (call.get("extra_content") or {}).get("google") or {}
        signature = google.get("thought_signature") or (_UNSIGNED if index == 0 else None)
        if signature:
            part["thoughtSignature"] = signature
        parts.append(part)
    return parts


def _result(message: Body, names: Mapping[str, str]) -> list[Body]:
    name = names.get(str(message.get("tool_call_id")))
    if name is None:
        raise BadRequestError("a message of role tool answers no call of the conversation")
    text = "\n".join(str(part["text"]) for part in _parts(message) if "text" in part)
    return [{"functionResponse": {"name": name, "response": json_object(text) or {"result": text}}}]


# The answer


class _Reader:
    def __init__(self) -> None:
        self.skipped = 0
        self.complete = False
        self.done = False
        self.usage: Body | None = None
        self._chunks = Chunks()
        self._calls = 0
        self._begun = False
        self._said = False

    def event(self, data: bytes) -> list[Body]:
        event = json_object(data)
        if event is None:
            self.skipped += 1
            if self.skipped > 1:
                raise AnswerFormatError("two events of the stream are no JSON")
            return []
        if "usageMetadata" in event:
            self.usage = _usage(event)
        if "error" in event:
            raise _error(event, None, {})
        candidate = _candidate(event)
        chunks: list[Body] = []
        if candidate is not None:
            text, calls = _content(candidate, self._calls)
            self._calls += len(calls)
            finish = candidate.get("finishReason")
            if finish in _BLOCKED and not self._begun and not text and not calls:
                raise BlockedError("the content policy left nothing of the answer", status=200)
            delta: Body = {} if self._begun else {"role": "assistant", "content": ""}
            self._begun = True
            if text:
                delta["content"] = text
            if calls:
                delta["tool_calls"] = calls
            self._said = self._said or bool(text or calls)
            if finish is not None and finish not in _FINISH and finish not in _BLOCKED and not self._said:
                raise _nothing(finish)
            self.complete = self.complete or finish is not None
            if delta or finish is not None:
                chunks.append(self._chunks.delta(delta, _finish(finish, self._calls > 0)))
        if "usageMetadata" in event and self.complete:
            chunks.append(self._chunks.usage(_usage(event)))
        return chunks


def _nothing(finish: object) -> AnswerFormatError:
    """Of an answer without content that ended otherwise than answers do, such as with a call that has no form."""
    code = safe(finish)
    return AnswerFormatError(f"the answer has no content{f' ({code})' if code else ''}", status=200, upstream_code=code)


def _candidate(answer: Body) -> Body | None:
    """The first one; raises BlockedError when the prompt itself was refused."""
    feedback = answer.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason"):
        reason = safe(feedback["blockReason"])
        raise BlockedError("the content policy refused the prompt", status=200, upstream_code=reason)
    candidates = answer.get("candidates")
    found = candidates[0] if isinstance(candidates, list) and candidates else None
    return found if isinstance(found, dict) else None


def _content(candidate: Body, calls_before: int) -> tuple[str, list[Body]]:
    content = candidate.get("content")
    parts = (content.get("parts") if isinstance(content, dict) else None) or []
    text: list[str] = []
    calls: list[Body] = []
    for part in parts:
        if not isinstance(part, dict) or part.get("thought"):
            continue
        if isinstance(part.get("text"), str):
            text.append(part["text"])
        if isinstance(made := part.get("functionCall"), dict):
            index = calls_before + len(calls)
            call: Body = {
                "index": index,
                "id": str(made.get("id") or f"call_{uuid.uuid4().hex[:12]}"),
                "type": "function",
                "function": {"name": made["name"], "arguments": orjson.dumps(made.get("args") or {}).decode()},
            }
            if signature := part.get("thoughtSignature"):
                call["extra_content"] = {"google": {"thought_signature": signature}}
            calls.append(call)
    return "".join(text), calls


def _finish(finish: object, with_calls: bool) -> str | None:
    if not isinstance(finish, str):
        return None
    if finish in _BLOCKED:
        return "content_filter"
    if finish == "STOP" and with_calls:
        return "tool_calls"
    return _FINISH.get(finish, safe(finish).lower() or None)


def _usage(answer: Body) -> Body:
    usage = answer.get("usageMetadata")
    if not isinstance(usage, dict):
        return tokens(0, 0)
    completed = count(usage.get("candidatesTokenCount")) + count(usage.get("thoughtsTokenCount"))
    return tokens(usage.get("promptTokenCount"), completed)


def _error(answer: Body, status: int | None, headers: Mapping[str, str]) -> RouteError:
    error = answer.get("error")
    error = error if isinstance(error, dict) else {}
    details = [detail for detail in error.get("details") or () if isinstance(detail, dict)]
    if status is None:
        status = as_status(error.get("code"), 502)
    if any(detail.get("reason") == "API_KEY_INVALID" for detail in details):
        return ProviderAuthError(f"answered {status} (API_KEY_INVALID)", status=status, upstream_code="API_KEY_INVALID")
    delay = next((str(detail["retryDelay"]) for detail in details if "retryDelay" in detail), "")
    if delay.endswith("s") and "retry-after" not in headers:
        headers = {**headers, "retry-after": delay[:-1]}
    return status_error(status, safe(error.get("status")), headers=headers, detail=str(error.get("message") or ""))
