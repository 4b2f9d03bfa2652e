"""The planner's model where there is no file of chains: one OpenAI-compatible endpoint, asked through the router.

One request a call: no retries, which belong to the caller, who knows what was stored already.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from projector.config import Settings
from projector.errors import (
    AnswerFormatError,
    ChatAnswerError,
    ChatError,
    ChatRefusedError,
    ChatUnavailableError,
    ConfigError,
    RouteError,
)
from projector.llm.answer import completion_from, token_count
from projector.llm.chat import TEMPERATURE, Completion, Message, request
from projector.llm.config import Alias, Budgets, Config, Entry, Limits, Policy, Provider, is_base_url
from projector.llm.counted import counted
from projector.llm.prometheus import PrometheusMetrics
from projector.llm.registry import Registry, Snapshot, is_key
from projector.llm.routed import FINAL
from projector.llm.router import LLMRouter
from projector.llm.transport import HTTPTransport
from projector.llm.walk import NoGate

MAX_BODY_BYTES = 2 * 1024 * 1024
CONNECT_TIMEOUT_S = 10.0
LONGEST_RETRY_AFTER_S = 3600.0
# Too early, or too many at once: the same request may succeed later. Other 4xx never do.
TRANSIENT_STATUS = {408, 409, 425, 429}
NAME = "endpoint"
"""Of the provider, in errors, metrics and the log."""


class OpenAIChat:
    """Use as an async context manager. `timeout_s` covers a whole call: the wait for one of `connections`, and the last
    byte of the body.

    Raises ConfigError for a URL or a key that no request could be made with.
    """

    def __init__(self, base_url: str, *, api_key: str = "", timeout_s: float = 120.0, connections: int = 100) -> None:
        if not is_base_url(base_url):
            raise ConfigError("PROJECTOR_LLM_BASE_URL is no http:// or https:// URL without user, password and query")
        if not is_key(api_key):
            raise ConfigError("PROJECTOR_LLM_API_KEY is no single word of printable ASCII characters")
        self._router = LLMRouter(
            _OneEndpoint(base_url.rstrip("/") + "/v1", api_key, timeout_s),
            # What is planned waits by the ledger already; a circuit would keep back calls that could succeed.
            gate=NoGate(),
            # A connection for each call: whatever an endpoint sends beyond an answer could be read as the next one's,
            # and be another user's.
            transport=HTTPTransport(longest_body=MAX_BODY_BYTES, keep_alive=False),
            places=connections,
            metrics=PrometheusMetrics(),
        )

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Raises ConfigError when no endpoint is set."""
        if not settings.llm_base_url:
            raise ConfigError("PROJECTOR_LLM_BASE_URL is not set", "set it to an OpenAI-compatible endpoint")
        return cls(
            settings.llm_base_url,
            api_key=settings.llm_api_key.get_secret_value(),
            timeout_s=settings.llm_timeout_s,
            connections=settings.planner_workers,
        )

    async def __aenter__(self) -> Self:
        await self._router.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._router.__aexit__(kind, error, trace)

    async def complete(
        self,
        alias: str,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        run_id: str,
        temperature: float = TEMPERATURE,
    ) -> Completion:
        """Asks for `alias` as the model. Raises ChatUnavailableError, ChatAnswerError or ChatRefusedError."""
        return await counted(self._ask(request(alias, messages, tools, temperature), run_id))

    async def _ask(self, body: dict[str, Any], run_id: str) -> Completion:
        try:
            answer = await self._router.complete(body, call_id=run_id)
        except RouteError as error:
            raise _failure(error) from error
        return replace(completion_from(answer.body), model=answer.model)


def _failure(error: RouteError) -> ChatError:
    # Of a walk that asked once, what came of that.
    found = error.last_error or error
    failed = _as_chat_error(found)
    failed.kind, failed.status, failed.detail = found.kind, found.status, found.detail
    return failed


def _as_chat_error(found: RouteError) -> ChatError:
    if found.status not in TRANSIENT_STATUS:
        if found.kind in FINAL or (found.status not in (None, 200) and found.status < 500):
            return ChatRefusedError(found.message)
        usage = found.usage
        if usage is not None or isinstance(found, AnswerFormatError):
            return ChatAnswerError(
                found.message, token_count(usage, "prompt_tokens"), token_count(usage, "completion_tokens")
            )
    asked_s = found.retry_after
    return ChatUnavailableError(found.message, asked_s if asked_s is None or asked_s <= LONGEST_RETRY_AFTER_S else None)


class _OneEndpoint(Registry):
    """A registry of one provider and no aliases, with nothing to read again."""

    def __init__(self, base_url: str, key: str, timeout_s: float) -> None:
        provider = Provider(NAME, base_url, probe="none", call_id_header="x-run-id")
        budgets = Budgets(
            deadline_s=timeout_s,
            limits=Limits(min(CONNECT_TIMEOUT_S, timeout_s), timeout_s, timeout_s, timeout_s),
            max_attempts=1,
            min_attempt_s=0.0,
        )
        config = Config(providers={NAME: provider}, budgets=budgets, policy=Policy(last_retry=0))
        self._made = _EveryName(config, 1, time.time(), {NAME: key})
        super().__init__("")

    def read(self) -> Snapshot:
        return self._made


@dataclass(frozen=True, slots=True)
class _EveryName(Snapshot):
    def route(self, requested: str) -> Alias:
        """Whatever it is called, the endpoint knows what is meant."""
        return Alias(requested, "", (Entry(NAME, requested),))
