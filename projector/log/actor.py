"""Who wrote a row: the actor as `sync_changes.actor` carries it, in all the shapes that history holds.

`display_name` is the name at the time of writing: a later rename does not rewrite history.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal, TypeAlias

Origin: TypeAlias = Literal["user", "agent", "system", "migration"]

SYSTEM_PROJECTION = "system:projection"
SYSTEM_RULE = "system:rule"
SYSTEM_MIGRATION = "system:migration"
SYSTEM_STREAM = "system:stream"
SYSTEM_MISSION_RUNNER = "system:mission-runner"
SYSTEM_BOOTSTRAP = "system:bootstrap"

SYSTEM_DISPLAY_NAMES: Mapping[str, str] = MappingProxyType(
    {
        SYSTEM_PROJECTION: "Projektion",
        SYSTEM_RULE: "Regel",
        SYSTEM_MIGRATION: "Migration",
        SYSTEM_STREAM: "Event-Stream",
        SYSTEM_MISSION_RUNNER: "Mission-Runner",
        SYSTEM_BOOTSTRAP: "Bootstrap",
    }
)

LEGACY_USER_PRINCIPAL = "legacy:user"
LEGACY_AI_PRINCIPAL = "legacy:ai-default"
LEGACY_SYSTEM_PRINCIPAL = "legacy:system"
LEGACY_DISPLAY_NAME = "Unbekannt"
USER_DISPLAY_NAME = "Du"

DEFAULT_AGENT_ID = "legacy:ai-default"
"""Fixed id of every user's default agent: the same text as the legacy AI principal, and unique per user only."""
DEFAULT_AGENT_NAME = "Mana"


@dataclass(frozen=True, slots=True)
class UserActor:
    """A person; `principal_id` is the user id."""

    kind: ClassVar[Literal["user"]] = "user"
    principal_id: str
    display_name: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "principalId": self.principal_id, "displayName": self.display_name}


@dataclass(frozen=True, slots=True)
class AgentActor:
    """An agent at work on an iteration of a mission; `principal_id` is the agent id. Its kind on the wire is `ai`."""

    kind: ClassVar[Literal["ai"]] = "ai"
    principal_id: str
    display_name: str
    mission_id: str
    iteration_id: str
    rationale: str

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "principalId": self.principal_id,
            "displayName": self.display_name,
            "missionId": self.mission_id,
            "iterationId": self.iteration_id,
            "rationale": self.rationale,
        }


@dataclass(frozen=True, slots=True)
class SystemActor:
    """A part of the software; `principal_id` is `system:<source>`."""

    kind: ClassVar[Literal["system"]] = "system"
    principal_id: str
    display_name: str

    def to_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "principalId": self.principal_id, "displayName": self.display_name}


Actor: TypeAlias = UserActor | AgentActor | SystemActor

USER_ACTOR = UserActor(LEGACY_USER_PRINCIPAL, USER_DISPLAY_NAME)
"""Stands for the person at a device until a login names them."""
UNKNOWN_ACTOR = UserActor(LEGACY_USER_PRINCIPAL, LEGACY_DISPLAY_NAME)
"""Stands for whoever wrote a row that does not say."""
MISSION_RUNNER = SystemActor(SYSTEM_MISSION_RUNNER, SYSTEM_DISPLAY_NAMES[SYSTEM_MISSION_RUNNER])
"""Writes what no agent did: that an iteration failed."""


def user(user_id: str, display_name: str = USER_DISPLAY_NAME) -> UserActor:
    return UserActor(user_id, display_name)


def agent(agent_id: str, display_name: str, *, mission_id: str, iteration_id: str, rationale: str = "") -> AgentActor:
    return AgentActor(agent_id, display_name, mission_id, iteration_id, rationale)


def system(source: str, display_name: str | None = None) -> SystemActor:
    """`source` with or without its prefix `system:`; an unknown source is named by its principal id."""
    principal_id = source if source.startswith("system:") else f"system:{source}"
    return SystemActor(principal_id, display_name or SYSTEM_DISPLAY_NAMES.get(principal_id, principal_id))


def normalize_actor(raw: object) -> Actor:
    """The actor that a stored value means. Never fails: what names nobody is an unknown user.

    Takes an Actor (returned as it is), an object in a present or former shape, or a text holding such an object.
    """
    if isinstance(raw, UserActor | AgentActor | SystemActor):
        return raw
    shape = _object_in(raw)
    kind = shape.get("kind")
    principal_id = _text(shape, "principalId")
    display_name = _text(shape, "displayName")
    if kind == "user":
        return UserActor(
            LEGACY_USER_PRINCIPAL if principal_id is None else principal_id,
            USER_DISPLAY_NAME if display_name is None else display_name,
        )
    if kind == "ai":
        return AgentActor(
            LEGACY_AI_PRINCIPAL if principal_id is None else principal_id,
            LEGACY_DISPLAY_NAME if display_name is None else display_name,
            _text(shape, "missionId") or "",
            _text(shape, "iterationId") or "",
            _text(shape, "rationale") or "",
        )
    if kind == "system":
        if principal_id is None:
            source = _text(shape, "source")
            principal_id = f"system:{source}" if source else LEGACY_SYSTEM_PRINCIPAL
        if display_name is None:
            display_name = SYSTEM_DISPLAY_NAMES.get(principal_id, principal_id)
        return SystemActor(principal_id, display_name)
    return UNKNOWN_ACTOR


def is_user(actor: Actor | None) -> bool:
    return isinstance(actor, UserActor)


def is_agent(actor: Actor | None) -> bool:
    return isinstance(actor, AgentActor)


def is_system(actor: Actor | None) -> bool:
    return isinstance(actor, SystemActor)


def is_mission_runner(actor: Actor | None) -> bool:
    return isinstance(actor, SystemActor) and actor.principal_id == SYSTEM_MISSION_RUNNER


def origin_from_actor(actor: Actor | None) -> Origin:
    """The pipeline that an actor writes through; nobody in particular is a user."""
    if isinstance(actor, AgentActor):
        return "agent"
    if isinstance(actor, SystemActor):
        return "migration" if actor.principal_id == SYSTEM_MIGRATION else "system"
    return "user"


def _object_in(raw: object) -> Mapping[str, Any]:
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            return {}
    return raw if isinstance(raw, dict) else {}


def _text(shape: Mapping[str, Any], key: str) -> str | None:
    value = shape.get(key)
    return value if isinstance(value, str) else None
