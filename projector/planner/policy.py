"""Which tools an agent may plan with: one resolution for offering them and for judging calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

from projector.planner.tools import Tool

Decision = Literal["auto", "propose", "deny"]

MODULE_ALIASES = {"broadcast": ("broadcasts",)}
"""Names that devices give a module of the catalogue."""

_DECISIONS: dict[object, Decision] = {"auto": "auto", "propose": "propose", "deny": "deny"}


def allowed_tools(tools: Iterable[Tool], policy: object) -> tuple[Tool, ...]:
    """The tools in their order that the policy does not deny."""
    return tuple(tool for tool in tools if decide(tool, policy) != "deny")


def decide(tool: Tool, policy: object) -> Decision:
    """What the policy says of the tool; without one, the tool's default.

    A deny of the tool or of its module wins, whichever of their names it stands under. Else the tool's own entry
    decides, else its module's, else `defaultForAi`, else propose. Empty parts count as absent, and what nobody can
    read denies: a policy that is no object, a table that is none, a decision of another name.
    """
    if not policy:
        return tool.default_policy
    if not isinstance(policy, Mapping):
        return "deny"
    by_name, by_module = policy.get("tools"), policy.get("defaultsByModule")
    own, module = _read(by_name, tool.name), _read(by_module, tool.module)
    others = [_read(by_name, name) for name in tool.aliases]
    others += [_read(by_module, name) for name in MODULE_ALIASES.get(tool.module, ())]
    if "deny" in (own, module, *others):
        return "deny"
    return own or module or _decision(policy.get("defaultForAi")) or "propose"


def opted_in(tool: Tool, policy: object) -> bool:
    """Whether the owner set this very tool to auto, and nothing denies it.

    Devices make agents with every tool at its default, so where that is propose, auto is somebody's choice.
    """
    return isinstance(policy, Mapping) and _read(policy.get("tools"), tool.name) == "auto" == decide(tool, policy)


def _read(table: object, name: str) -> Decision | None:
    if not table:
        return None
    return _decision(table.get(name)) if isinstance(table, Mapping) else "deny"


def _decision(value: object) -> Decision | None:
    if not value:
        return None
    return _DECISIONS.get(value, "deny") if isinstance(value, str) else "deny"
