"""Tools as the model is offered them, and the check of what it calls."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal, get_args

from projector.planner.schema import Schema, check_schema, complaint

Effect = Literal["read", "append", "write", "destructive", "external"]
"""What a call does to the user's data: nothing, add, change, lose something for good; or it costs or shows outside."""
DefaultPolicy = Literal["auto", "propose"]
Scope = Literal["user-space", "admin"]

RECORDED = "recorded — pending client application"
"""What the model is told about a call that was taken into the plan: the owner's devices carry it out later."""

MAX_CHARS = 64 * 1024
MAX_DEPTH = 16
MAX_ECHO = 80

NAME = re.compile(r"[a-z_]+")
# What objects of devices have by nature: keys of these names would reach behind the data.
KEYS_OF_DEVICES = {"__proto__", "constructor", "prototype"}
UNUSABLE = (
    f"Arguments must be one JSON object of at most {MAX_CHARS} characters, nested at most {MAX_DEPTH} deep,"
    f" without a key named {', '.join(sorted(KEYS_OF_DEVICES))}"
)


@dataclass(frozen=True, slots=True)
class Parameter:
    """`schema` is the parameter's JSON Schema: type, description and what narrows it. Raises ValueError."""

    name: str
    schema: Schema
    required: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("a parameter has no name")
        check_schema(self.schema)


@dataclass(frozen=True, slots=True)
class Tool:
    """One entry of the catalogue. `aliases` are names that other runtimes, or older ones, give it.

    Raises ValueError when it cannot be offered.
    """

    name: str
    module: str
    description: str
    parameters: tuple[Parameter, ...] = ()
    default_policy: DefaultPolicy = "propose"
    effect: Effect = "append"
    aliases: tuple[str, ...] = ()
    scope: Scope = "user-space"

    def __post_init__(self) -> None:
        if not (self.name and self.module and self.description):
            raise ValueError(f"{self.name or 'a tool'} lacks its name, module or description")
        if self.default_policy not in get_args(DefaultPolicy) or self.effect not in get_args(Effect):
            raise ValueError(f"{self.name} has an unknown default policy or effect")
        if len({parameter.name for parameter in self.parameters}) < len(self.parameters):
            raise ValueError(f"{self.name} has a parameter twice")


class RejectedCall(Exception):  # an answer for the model, not a fault of the program
    """A call that is not taken into the plan; the text is the tool's answer to the model."""


def function_schema(tool: Tool) -> dict[str, Any]:
    """The tool in the wire form of function calling."""
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": {
                "type": "object",
                "properties": {parameter.name: deepcopy(dict(parameter.schema)) for parameter in tool.parameters},
                "required": [parameter.name for parameter in tool.parameters if parameter.required],
            },
        },
    }


def check_call(offered: Mapping[str, Tool], name: str, arguments: object) -> dict[str, Any]:
    """The arguments of a call that holds against the tools offered in the same request; raises RejectedCall.

    Nothing is coerced: the devices run exactly what was checked here. A null stands for a parameter left out.
    """
    tool = offered.get(name)
    if tool is None:
        raise RejectedCall(f"Unknown tool: {name[:MAX_ECHO]}{_suggestion(name, offered)}")
    if not isinstance(arguments, dict) or not is_usable(arguments):
        raise RejectedCall(UNUSABLE)
    taken = without_nulls(arguments)
    known = [parameter.name for parameter in tool.parameters]
    for key in taken:
        if key not in known:
            raise RejectedCall(f"Unknown parameter: {key[:MAX_ECHO]}. {tool.name} takes {', '.join(known) or 'none'}")
    for parameter in tool.parameters:
        if parameter.name not in taken:
            if parameter.required:
                raise RejectedCall(f"Missing required parameter: {parameter.name}")
        elif wrong := complaint(taken[parameter.name], parameter.schema):
            raise RejectedCall(f"Parameter {parameter.name} {wrong}")
    return taken


def without_nulls(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Models fill in null where they mean to leave a parameter out; for a device it would be a value."""
    return {name: value for name, value in arguments.items() if value is not None}


def is_usable(value: object) -> bool:
    """Whether this is JSON within the limits, and without keys that reach behind a device's data."""
    left = MAX_CHARS
    waiting: list[tuple[object, int]] = [(value, 1)]
    while waiting:
        item, depth = waiting.pop()
        left -= len(item) if isinstance(item, str) else 1
        inner: Iterable[object] = ()
        if isinstance(item, dict):
            if not all(isinstance(key, str) for key in item) or KEYS_OF_DEVICES & item.keys():
                return False
            left -= sum(map(len, item))
            inner = item.values()
        elif isinstance(item, list):
            inner = item
        elif isinstance(item, float):
            if not math.isfinite(item):
                return False
        elif not (item is None or isinstance(item, (str, int))):
            return False
        if left < 0 or depth > MAX_DEPTH:
            return False
        waiting.extend((each, depth + 1) for each in inner)
    return True


def sendable_name(name: str) -> str:
    """A name that endpoints take back in a conversation: they refuse most of what a model can make up."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", name[:64]) or "unnamed"


def _suggestion(name: str, offered: Mapping[str, Tool]) -> str:
    meant = [tool.name for tool in offered.values() if name in tool.aliases]
    # Slips of spelling only: a tool that the policy hides must not be answered with the one that sounds most like it.
    meant = meant or difflib.get_close_matches(name[:MAX_ECHO], sorted(offered), n=1, cutoff=0.85)
    return f". Did you mean {' or '.join(meant)}?" if meant else ""
