"""What an HTTP status, with the code that goes along, means; the same for every kind of provider.

Only statuses and codes decide, never words of a message: a number may stand in any text.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from projector.errors import (
    AnswerFormatError,
    BadRequestError,
    BlockedError,
    ContextLengthError,
    ModelNotFoundError,
    PaymentError,
    ProviderAuthError,
    RateLimitError,
    RouteError,
    UpstreamError,
)

CONTEXT_LENGTH = {"context_length_exceeded", "context_window_exceeded", "request_too_large"}
CONTENT_POLICY = {
    "content_filter",
    "content_policy_violation",
    "content_management_policy",
    "moderation_blocked",
    "responsibleaipolicyviolation",
}
_BY_STATUS: dict[int, type[RouteError]] = {
    401: ProviderAuthError,
    402: PaymentError,
    403: ProviderAuthError,
    404: ModelNotFoundError,
    408: UpstreamError,
    410: ModelNotFoundError,
    413: ContextLengthError,
    425: UpstreamError,
    429: RateLimitError,
}
_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
LONGEST_DETAIL = 300
LONGEST_WAIT_S = 24 * 3600.0


def status_error(
    status: int, code: str = "", *, headers: Mapping[str, str] | None = None, detail: str = "", blocked: bool = False
) -> RouteError:
    """The error of an answer with this status; `blocked`: the provider says that its content policy is the reason.

    `detail` is kept whole, because the key must be masked in it before it is cut.
    """
    headers = headers or {}
    kind = _kind(status, code.lower(), blocked)
    return kind(
        f"answered {status}{f' ({code})' if code else ''}",
        status=status,
        upstream_code=code,
        retry_after=retry_after(headers),
        request_id=safe(headers.get("x-request-id") or headers.get("request-id")),
        detail=" ".join(detail.split()),
    )


def _kind(status: int, code: str, blocked: bool) -> type[RouteError]:
    if status < 400:
        return AnswerFormatError
    if status >= 500:
        return UpstreamError
    if status in (400, 403) and (blocked or code in CONTENT_POLICY):
        return BlockedError
    if status == 400 and code in CONTEXT_LENGTH:
        return ContextLengthError
    return _BY_STATUS.get(status, BadRequestError)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the provider asks to wait, as a number or as a date; None when it does not, or not sensibly."""
    if milliseconds := headers.get("retry-after-ms"):
        return _seconds(milliseconds, 0.001)
    value = headers.get("retry-after")
    if not value:
        return None
    seconds = _seconds(value)
    if seconds is None:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() - datetime.now(UTC).timestamp()
    return min(max(seconds, 0.0), LONGEST_WAIT_S)


def _seconds(text: str, unit: float = 1.0) -> float | None:
    try:
        seconds = float(text) * unit
    except ValueError:
        return None
    return min(max(seconds, 0.0), LONGEST_WAIT_S) if math.isfinite(seconds) else None


def safe(value: object) -> str:
    """A code or an id as the provider wrote it, '' when it is anything that could be a text."""
    text = str(value) if isinstance(value, (str, int)) and not isinstance(value, bool) else ""
    return text if _CODE.fullmatch(text) else ""


def as_status(code: object, otherwise: int) -> int:
    """The status that an error inside an answer of status 200 stands for."""
    if isinstance(code, str) and code.isdecimal() and len(code) == 3:
        code = int(code)
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        return code
    return otherwise
