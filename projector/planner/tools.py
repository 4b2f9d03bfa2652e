"""Tools as the model is offered them, and the check of what it calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

ParameterType = Literal["string", "number", "integer", "boolean", "array", "object"]

RECORDED = "recorded — pending client application"
"""What the model is told about a call that was taken into the plan: the owner's devices carry it out later."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """`enum` empty: any value of the type."""

    name: str
    type: ParameterType
    required: bool = False
    enum: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Tool:
    """One entry of the catalogue."""

    name: str
    module: str
    description: str
    parameters: tuple[Parameter, ...]


class RejectedCall(Exception):  # an answer for the model, not a fault of the program
    """A call that is not taken into the plan; the text is the tool's answer to the model."""


def function_schema(tool: Tool) -> dict[str, Any]:
    """The tool in the wire form of function calling."""
    properties: dict[str, Any] = {}
    for parameter in tool.parameters:
        properties[parameter.name] = {"type": parameter.type}
        if parameter.enum:
            properties[parameter.name]["enum"] = list(parameter.enum)
    return {
        "type": "function",
        "function": {
            "name": tool.name,
            "description": tool.description,
            "parameters": {
                "type": "object",
                "properties": properties,
                "required": [parameter.name for parameter in tool.parameters if parameter.required],
            },
        },
    }


def check_call(offered: Mapping[str, Tool], name: str, arguments: object) -> dict[str, Any]:
    """The arguments of a call that holds against the tools offered in the same request; raises RejectedCall.

    Nothing is coerced and nothing is dropped: the devices run exactly what was checked here.
    """
    tool = offered.get(name)
    if tool is None:
        raise RejectedCall(f"Unknown tool: {name[:80]}")
    if not isinstance(arguments, dict):
        raise RejectedCall("Arguments must be one JSON object")
    known = {parameter.name for parameter in tool.parameters}
    unknown = [key for key in arguments if key not in known]
    if unknown:
        raise RejectedCall(f"Unknown parameter: {unknown[0][:80]}")
    for parameter in tool.parameters:
        value = arguments.get(parameter.name)
        if value is None:
            if parameter.required:
                raise RejectedCall(f"Missing required parameter: {parameter.name}")
        elif not _is_of(value, parameter.type):
            raise RejectedCall(f"Parameter {parameter.name} must be of type {parameter.type}")
        elif parameter.enum and value not in parameter.enum:
            raise RejectedCall(f"Parameter {parameter.name} must be one of: {', '.join(parameter.enum)}")
    return arguments


def _is_of(value: object, kind: ParameterType) -> bool:
    if kind == "number":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "integer":
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, {"string": str, "boolean": bool, "array": list, "object": dict}[kind])
