"""The planner's model: a chain of the router in this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

from projector.config import Settings
from projector.errors import ChatError, ChatRefusedError, ChatUnavailableError, RouteError
from projector.llm.answer import MAX_TOKENS, completion_from
from projector.llm.attempt import Attempt, Usage
from projector.llm.chat import TEMPERATURE, Completion, Message, request
from projector.llm.counted import counted
from projector.llm.prometheus import PrometheusMetrics
from projector.llm.reloading import reloading
from projector.llm.router import Answer, LLMRouter

SOONEST_RETRY_S, LATEST_RETRY_S = 5.0, 300.0
# Whoever asks the same again gets the same; anything else may mend, some of it only when somebody pays or renews a key.
FINAL = {"blocked", "bad_request", "capability", "context_length", "unknown_alias"}


class RoutedChat:
    """Use as an async context manager, in the loop that asks. For so long it probes, and reloads on SIGHUP, or when the
    file is another, looked at every `look_s` seconds.
    """

    def __init__(self, router: LLMRouter, *, timeout_s: float, look_s: float = 0.0) -> None:
        self._router = router
        self._timeout_s = timeout_s
        self._reloading = reloading(router, look_s=look_s)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Raises ConfigError or AliasConfigError."""
        router = LLMRouter.from_config(
            settings.require_llm_config(), places=settings.llm_calls_per_provider, metrics=PrometheusMetrics()
        )
        return cls(router, timeout_s=settings.llm_timeout_s, look_s=settings.llm_config_look_s)

    async def __aenter__(self) -> Self:
        await self._router.__aenter__()
        # Who begins to plan should not find out by waiting who is away.
        await (await self._router.start_probes()).ready()
        self._reloading.__enter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reloading.__exit__(kind, error, trace)
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
        """Asks the chain of `alias`. Raises ChatUnavailableError, ChatAnswerError or ChatRefusedError."""
        return await counted(self._ask(request(alias, messages, tools, temperature), run_id))

    async def _ask(self, body: dict[str, Any], run_id: str) -> Completion:
        # A key that one provider refuses is no reason to let a mission wait: the next entry may do, and an alarm is
        # counted.
        policy = replace(self._router.registry.snapshot.config.policy, auth="next", payment="next")
        try:
            answer = await self._router.complete(body, deadline_s=self._timeout_s, call_id=run_id, policy=policy)
        except RouteError as error:
            raise _failure(error) from error
        return _completion(answer)


def _completion(answer: Answer) -> Completion:
    made, lost = completion_from(answer.body), _lost(answer.attempts)
    return replace(
        made,
        prompt_tokens=made.prompt_tokens + lost.prompt_tokens,
        completion_tokens=made.completion_tokens + lost.completion_tokens,
        model=answer.resolved,
        cost=answer.usage.cost + lost.cost,
        route=tuple(map(str, answer.attempts)),
    )


def _failure(error: RouteError) -> ChatError:
    failed: ChatError
    if error.kind in FINAL:
        failed = ChatRefusedError(error.message, error.remedy)
    else:
        asked_s = min(max(error.retry_after or 0.0, SOONEST_RETRY_S), LATEST_RETRY_S)
        failed = ChatUnavailableError(error.message, asked_s)
    failed.kind, failed.status = error.kind, error.status
    failed.detail = (error.last_error or error).detail
    lost = _lost(error.attempts)
    failed.prompt_tokens, failed.completion_tokens = lost.prompt_tokens, lost.completion_tokens
    failed.cost, failed.route = lost.cost, tuple(map(str, error.attempts))
    return failed


def _lost(attempts: Iterable[Attempt]) -> Usage:
    """What answers of no use cost, before another entry was asked or none was left."""
    told = sum((attempt.usage for attempt in attempts if attempt.outcome == "failed"), Usage())
    return replace(
        told,
        prompt_tokens=min(told.prompt_tokens, MAX_TOKENS),
        completion_tokens=min(told.completion_tokens, MAX_TOKENS),
    )
