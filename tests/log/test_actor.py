from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from projector.log import actor as actors
from projector.log.actor import UNKNOWN_ACTOR, AgentActor, SystemActor, UserActor, normalize_actor

MODERN = [
    actors.user("user-1", "Till"),
    actors.agent("agent-1", "Cashflow Watcher", mission_id="m1", iteration_id="it1", rationale="weekly review"),
    actors.system("projection"),
    SystemActor("system:mcp", "MCP Server"),
]


def test_a_user_has_the_default_name_unless_given_one():
    assert actors.user("user-1", "Till") == UserActor("user-1", "Till")
    assert actors.user("u").display_name == "Du"


def test_an_agent_carries_its_mission_iteration_and_rationale():
    assert actors.agent("a", "Mana", mission_id="m", iteration_id="i").to_json() == {
        "kind": "ai",
        "principalId": "a",
        "displayName": "Mana",
        "missionId": "m",
        "iterationId": "i",
        "rationale": "",
    }


@pytest.mark.parametrize(
    ("source", "principal", "name"),
    [
        ("projection", "system:projection", "Projektion"),
        ("rule", "system:rule", "Regel"),
        ("migration", "system:migration", "Migration"),
        ("stream", "system:stream", "Event-Stream"),
        ("mission-runner", "system:mission-runner", "Mission-Runner"),
        ("bootstrap", "system:bootstrap", "Bootstrap"),
        ("system:bootstrap", "system:bootstrap", "Bootstrap"),
        ("mcp", "system:mcp", "system:mcp"),
    ],
)
def test_a_system_actor_is_named_by_its_source(source, principal, name):
    assert actors.system(source) == SystemActor(principal, name)
    assert actors.system(source, "Streak-Tracker").display_name == "Streak-Tracker"


def test_actors_cannot_be_altered():
    for actor in MODERN:
        with pytest.raises((FrozenInstanceError, AttributeError)):
            actor.principal_id = "x"


@pytest.mark.parametrize("actor", MODERN)
def test_an_actor_survives_its_json(actor):
    assert normalize_actor(actor) is actor
    assert normalize_actor(actor.to_json()) == actor
    assert normalize_actor(json.dumps(actor.to_json())) == actor


@pytest.mark.parametrize(
    "raw",
    [
        *[None, "hello", "", 5, 1.5, True, {}, [], [{"kind": "user"}]],
        *[{"kind": "alien"}, {"kind": None}, {"kind": []}],
        *["null", "5", '"user"', "[1]", "{", "[" * 100_000],
    ],
)
def test_what_names_nobody_is_an_unknown_user(raw):
    assert normalize_actor(raw) is UNKNOWN_ACTOR
    assert UserActor("legacy:user", "Unbekannt") == UNKNOWN_ACTOR


@pytest.mark.parametrize(
    ("raw", "actor"),
    [
        ({"kind": "user"}, UserActor("legacy:user", "Du")),
        ({"kind": "user", "principalId": "P"}, UserActor("P", "Du")),
        ({"kind": "user", "displayName": "N"}, UserActor("legacy:user", "N")),
        ({"kind": "user", "principalId": 5, "displayName": None}, UserActor("legacy:user", "Du")),
        (
            {"kind": "ai", "missionId": "m1", "iterationId": "i1", "rationale": "r"},
            AgentActor("legacy:ai-default", "Unbekannt", "m1", "i1", "r"),
        ),
        ({"kind": "ai", "principalId": "a"}, AgentActor("a", "Unbekannt", "", "", "")),
        ({"kind": "ai", "principalId": "a", "displayName": "N", "missionId": 5}, AgentActor("a", "N", "", "", "")),
        ({"kind": "system", "source": "projection"}, SystemActor("system:projection", "Projektion")),
        ({"kind": "system", "source": "mission-runner"}, SystemActor("system:mission-runner", "Mission-Runner")),
        ({"kind": "system", "source": "novel"}, SystemActor("system:novel", "system:novel")),
        ({"kind": "system"}, SystemActor("legacy:system", "legacy:system")),
        ({"kind": "system", "principalId": "system:mcp"}, SystemActor("system:mcp", "system:mcp")),
        ({"kind": "system", "principalId": "system:rule"}, SystemActor("system:rule", "Regel")),
        ({"kind": "system", "principalId": ["x"], "source": 5}, SystemActor("legacy:system", "legacy:system")),
    ],
)
def test_former_shapes_are_understood(raw, actor):
    assert normalize_actor(raw) == actor
    assert normalize_actor(json.dumps(raw)) == actor


def test_each_predicate_knows_its_kind():
    user, agent, system, _ = MODERN
    for predicate, kind in ((actors.is_user, user), (actors.is_agent, agent), (actors.is_system, system)):
        assert [predicate(actor) for actor in (user, agent, system)] == [
            actor is kind for actor in (user, agent, system)
        ]
        assert not predicate(None)
    assert actors.is_mission_runner(actors.system("mission-runner"))
    assert not actors.is_mission_runner(system)
    assert not actors.is_mission_runner(UserActor("system:mission-runner", "x"))


def test_the_origin_follows_from_the_actor():
    assert [actors.origin_from_actor(actor) for actor in MODERN] == ["user", "agent", "system", "system"]
    assert actors.origin_from_actor(actors.system("migration")) == "migration"
    assert actors.origin_from_actor(None) == "user"


def test_the_placeholder_of_a_device_is_the_legacy_user():
    assert UserActor("legacy:user", "Du") == actors.USER_ACTOR
    assert actors.DEFAULT_AGENT_ID == actors.LEGACY_AI_PRINCIPAL == "legacy:ai-default"
