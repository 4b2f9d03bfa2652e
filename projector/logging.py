"""Structured logs: JSON lines, or readable ones on a terminal. Values are never record contents."""

from __future__ import annotations

import logging
import re
import sys
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from projector.config import Settings

# As URLs and as libpq and Kafka write them: more may go than the password, never less.
_IN_URL = re.compile(r"(://[^\s:/@]*:)\S*@")
_IN_TEXT = re.compile(r"""(password["']?\s*[=:]\s*)(?:'(?:[^'\\]|\\.)*'|"[^"]*"|\S+)""", re.IGNORECASE)


def without_passwords(text: str) -> str:
    """`text` with `***` for each password in a connection URL or after `password=`."""
    # Asked first, since nearly no text has either, and a line is written for every call of a model.
    if "://" in text:
        text = _IN_URL.sub(r"\1***@", text)
    return _IN_TEXT.sub(r"\1***", text) if "password" in text.casefold() else text


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _masked(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_masked(item) for item in value]
    # What is no text is written as its `repr`, whoever renders it.
    return value if value is None or isinstance(value, (bool, int, float)) else without_passwords(_text(value))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else repr(value)


def _mask(_logger: Any, _method: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """The last processor before the renderer: messages of libraries quote what they were given."""
    return {key: _masked(value) for key, value in event.items()}


def configure(settings: Settings, stream: str) -> None:
    """Sends structlog and the libraries' loggers to stderr, each line naming the stream that wrote it."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    level = logging.getLevelName(settings.log_level.upper())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: structlog.types.Processor = structlog.processors.JSONRenderer()
    if console:
        renderer = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    last: list[structlog.types.Processor] = [structlog.processors.format_exc_info, _mask, renderer]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(stream=stream)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    # Libraries report what they do at INFO; an operator wants what went wrong.
    logging.basicConfig(handlers=[handler], level=max(level, logging.WARNING), force=True)


def get(name: str) -> structlog.typing.FilteringBoundLogger:
    """A logger whose lines carry `part=name`."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger(part=name)
    return logger


def configure_command() -> None:
    """For commands that end: what they log goes to stderr, since stdout is theirs to answer on."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=True),
            structlog.processors.format_exc_info,
            _mask,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
