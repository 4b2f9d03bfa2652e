"""Which tools an agent may plan with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from projector.planner.tools import Tool

ALLOWED = ("auto", "propose")


def allowed_tools(tools: Iterable[Tool], policy: Mapping[str, Any] | None) -> tuple[Tool, ...]:
    """The tools in their order that the policy leaves; without a policy all of them.

    A tool's own entry decides, else its module's, else `defaultForAi` (absent: propose). Empty entries fall
    through. A decision nobody knows counts as deny.
    """
    if policy is None:
        return tuple(tools)
    return tuple(tool for tool in tools if _decision(tool, policy) in ALLOWED)


def _decision(tool: Tool, policy: Mapping[str, Any]) -> object:
    return (
        _entry(policy.get("tools"), tool.name)
        or _entry(policy.get("defaultsByModule"), tool.module)
        or policy.get("defaultForAi")
        or "propose"
    )


def _entry(table: object, name: str) -> object:
    return table.get(name) if isinstance(table, Mapping) else None
