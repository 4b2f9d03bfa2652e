"""Every tool that devices know, from `tools.json`, and those that a server may plan with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Any

import orjson

from projector.planner.tools import NAME, Parameter, Tool


def catalogue_of(entries: Iterable[Mapping[str, Any]]) -> tuple[Tool, ...]:
    """The tools by module and name, whatever the order of the entries. Raises ValueError when one is amiss."""
    tools = sorted((_tool(entry) for entry in entries), key=lambda tool: (tool.module, tool.name))
    names = [name for tool in tools for name in (tool.name, *tool.aliases)]
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"more than one tool is called {min(twice)}")
    return tuple(tools)


def plannable(tools: Iterable[Tool]) -> tuple[Tool, ...]:
    """Those that change something: the owner's devices carry them out later, so an answer to a read never comes."""
    return tuple(tool for tool in tools if tool.effect != "read" and tool.scope != "admin")


def _tool(entry: Mapping[str, Any]) -> Tool:
    rest = dict(entry)
    if not NAME.fullmatch(rest.get("name", "")):
        raise ValueError(f"no name of a tool: {rest.get('name')!r}")
    parameters = tuple(_parameter(parameter) for parameter in rest.pop("parameters"))
    default, aliases = rest.pop("defaultPolicy"), tuple(rest.pop("aliases", ()))
    return Tool(**rest, parameters=parameters, default_policy=default, aliases=aliases)


def _parameter(entry: Mapping[str, Any]) -> Parameter:
    schema = dict(entry)
    if not schema.get("description"):
        raise ValueError(f"the parameter {schema.get('name')!r} is not described")
    return Parameter(schema.pop("name"), required=schema.pop("required"), schema=schema)


_ENTRIES = orjson.loads(files("projector.planner").joinpath("tools.json").read_bytes())

CATALOGUE = catalogue_of(_ENTRIES)
CATALOGUE_DIGEST = hashlib.sha256(orjson.dumps(CATALOGUE, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]
"""Which catalogue a plan was made with."""
PLANNABLE = plannable(CATALOGUE)
