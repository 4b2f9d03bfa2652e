"""Reads a plan that a model without function calls wrote as JSON into its answer."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import orjson

MAX_OBJECTS = 32
MAX_TOKENS = 50_000
"""Braces and strings that are looked at: no plan has so many."""
MAX_PLANNED = 50
"""Steps of a plan that are looked at."""
MAX_NAME = 80

_FENCE = re.compile(r"```[A-Za-z0-9_+-]*\s*(.*?)```", re.DOTALL)
# A string that is not closed reaches to the end, so that no text takes more than one pass.
_BRACE_OR_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)|[{}]', re.DOTALL)


@dataclass(frozen=True, slots=True)
class ParsedStep:
    """`index` counts the steps of the answer, from 0."""

    index: int
    tool: str
    params: Any
    summary: str
    rationale: str


@dataclass(frozen=True, slots=True)
class ParsedPlan:
    """The steps that can be read, in their order; `errors` says what is wrong with the others."""

    summary: str
    steps: tuple[ParsedStep, ...]
    errors: tuple[str, ...]


class PlanUnreadable(Exception):  # an answer for the model, not a fault of the program
    """There is no plan in the answer. `raw`: the part of it that comes nearest."""

    def __init__(self, reason: str, raw: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.raw = raw


def parse_plan(text: str, known: Collection[str]) -> ParsedPlan:
    """The first plan among the fenced blocks, then the outermost objects, of an answer. Raises PlanUnreadable.

    `known`: the names of the tools that were offered.
    """
    failure: PlanUnreadable | None = None
    for block, whole in _blocks(text):
        try:
            return _plan(block, known)
        except PlanUnreadable as error:
            if whole:
                failure = failure or error
    raise failure or PlanUnreadable("no JSON block found", text)


def _blocks(text: str) -> Iterator[tuple[str, bool]]:
    """What may be a plan, and whether it stands for itself: not within an object that breaks off."""
    for fence in _FENCE.finditer(text):
        if body := fence[1].strip():
            yield body, True
    closed, open_at = _objects(text)
    for start, end in closed[:MAX_OBJECTS]:
        yield text[start:end], start < open_at


def _objects(text: str) -> tuple[list[tuple[int, int]], int]:
    """Where the outermost objects begin and end, and where the first one begins that does not end."""
    begun: list[int] = []
    closed: list[tuple[int, int]] = []
    first = text.find("{")
    tokens = _BRACE_OR_STRING.finditer(text, first) if first >= 0 else iter(())
    for token in islice(tokens, MAX_TOKENS):
        if token[0] == "{":
            begun.append(token.start())
        elif token[0] == "}" and begun:
            start = begun.pop()
            while closed and closed[-1][0] > start:
                closed.pop()
            closed.append((start, token.end()))
    return closed, begun[0] if begun else len(text)


def _plan(block: str, known: Collection[str]) -> ParsedPlan:
    try:
        value = orjson.loads(block)
    except orjson.JSONDecodeError as error:
        raise PlanUnreadable(f"JSON parse failed: {error}", block) from None
    if not isinstance(value, (dict, list)):
        raise PlanUnreadable("top-level value is not an object", block)
    if not isinstance(value, dict) or not isinstance(steps := value.get("steps"), list):
        raise PlanUnreadable("`steps` must be an array", block)
    read, errors = [], []
    for index, entry in enumerate(steps[:MAX_PLANNED]):
        step = _step(index, entry, known)
        if isinstance(step, str):
            errors.append(step)
        else:
            read.append(step)
    if len(steps) > MAX_PLANNED:
        errors.append(f"{len(steps)} steps, and no more than {MAX_PLANNED} are read")
    return ParsedPlan(_text(value.get("summary")), tuple(read), tuple(errors))


def _step(index: int, entry: object, known: Collection[str]) -> ParsedStep | str:
    """The step, or what is wrong with it."""
    if not isinstance(entry, dict):
        return f"step[{index}] is not an object"
    name = _text(entry.get("toolName"))
    if not name:
        return f"step[{index}].toolName missing or not a string"
    if name not in known:
        return f'step[{index}].toolName "{name[:MAX_NAME]}" is not in the allowed tool set'
    rationale = _text(entry.get("rationale"))
    if not rationale:
        return f"step[{index}].rationale is required (user will see this)"
    params = entry.get("params")
    return ParsedStep(
        index, name, params if isinstance(params, (dict, list)) else {}, _text(entry.get("summary")), rationale
    )


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
