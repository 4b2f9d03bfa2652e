"""The metrics of the planner's calls, whoever answers them."""

from __future__ import annotations

from collections.abc import Awaitable

from projector import metrics
from projector.errors import ChatError
from projector.llm.chat import Completion


async def counted(call: Awaitable[Completion]) -> Completion:
    """Awaits `call`, and counts how it ended, how long it took and what it cost."""
    try:
        with metrics.LLM_SECONDS.time():
            answer = await call
    except ChatError as error:
        metrics.LLM_CALLS.labels(result="transient" if error.transient else "refused").inc()
        raise
    metrics.LLM_CALLS.labels(result="answered").inc()
    metrics.LLM_TOKENS.labels(kind="prompt").inc(answer.prompt_tokens)
    metrics.LLM_TOKENS.labels(kind="completion").inc(answer.completion_tokens)
    return answer
