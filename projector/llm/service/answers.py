"""What goes back: headers that say who served, and errors in OpenAI's shape with every attempt in them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import orjson
from aiohttp import web

from projector.errors import RouteError
from projector.llm.attempt import Attempt

JSON = "application/json"
# The caller's own request is at fault: what the provider says of it is for the caller.
_DETAILED = {"bad_request", "context_length", "blocked", "capability"}


def served(requested: str, resolved: str, attempts: Sequence[Attempt], call_id: str) -> dict[str, str]:
    return {
        "X-LLM-Requested": requested,
        "X-LLM-Resolved": resolved,
        "X-LLM-Attempts": str(len(attempts)),
        "X-Mana-LLM-Resolved": resolved,
        "X-Request-ID": call_id,
    }


def route_error(error: RouteError) -> dict[str, Any]:
    """The body of an error, or its event in a stream."""
    message = error.message
    if error.detail and error.kind in _DETAILED:
        message = f"{message}: {error.detail}"
    return {
        "error": {
            "message": message,
            "type": error.kind,
            "code": error.kind,
            "param": None,
            "kind": error.kind,
            "requested": error.requested,
            "attempts": [attempt.fields() for attempt in error.attempts],
            "retry_after": error.retry_after,
        }
    }


def route_error_response(error: RouteError, call_id: str) -> web.Response:
    headers = {"X-LLM-Attempts": str(len(error.attempts)), "X-Request-ID": call_id}
    if error.requested:
        headers["X-LLM-Requested"] = error.requested
    if error.retry_after is not None and error.http_status in (429, 503):
        headers["Retry-After"] = str(math.ceil(error.retry_after))
    return json_response(route_error(error), error.http_status, headers)


def refusal(
    status: int, kind: str, message: str, *, param: str | None = None, retry_after: float | None = None
) -> web.Response:
    """Of a request that did not come as far as to a chain."""
    headers = {} if retry_after is None else {"Retry-After": str(max(math.ceil(retry_after), 1))}
    told: dict[str, Any] = {
        "message": message,
        "type": kind,
        "code": kind,
        "param": param,
        "kind": kind,
        "attempts": [],
    }
    return json_response({"error": told}, status, headers)


def json_response(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, headers=headers, content_type=JSON)
