from __future__ import annotations

import json
from dataclasses import FrozenInstanceError

import pytest

from projector.log import actor as actors
from projector.log.actor import (
    MISSION_RUNNER,
    UNKNOWN_ACTOR,
    USER_ACTOR,
    AgentActor,
    SystemActor,
    UserActor,
    normalize_actor,
)

MODERN = [
    actors.user("user-1", "Till"),
    actors.agent("agent-1", "Cashflow Watcher", mission_id="m1", iteration_id="it1", rationale="weekly review"),
    actors.system("projection"),
    SystemActor("system:mcp", "MCP Server"),
]


def agent(*, rationale: str = "weekly review") -> AgentActor:
    return actors.agent("agent-1", "Cashflow Watcher", mission_id="m1", iteration_id="it1", rationale=rationale)


REFERENCE = {
    "A1": lambda: actors.user("user-1", "Till") == UserActor("user-1", "Till") and actors.user("u").kind == "user",
    "A2": lambda: actors.user("u").display_name == "Du",
    "A3": lambda: (
        agent().to_json()
        == {
            "kind": "ai",
            "principalId": "agent-1",
            "displayName": "Cashflow Watcher",
            "missionId": "m1",
            "iterationId": "it1",
            "rationale": "weekly review",
        }
    ),
    "A4": lambda: (
        [actors.system(source).display_name for source in ("projection", "mission-runner")]
        == ["Projektion", "Mission-Runner"]
    ),
    "A5": lambda: actors.system("projection", "Streak-Tracker").display_name == "Streak-Tracker",
    "A6": lambda: (
        actors.is_user(actors.user("u"))
        and not actors.is_user(agent())
        and actors.is_agent(agent())
        and actors.is_system(actors.system("rule"))
    ),
    "A7": lambda: (
        actors.is_mission_runner(MISSION_RUNNER) and not actors.is_mission_runner(actors.system("projection"))
    ),
    "A8": lambda: not any(known(None) for known in (actors.is_user, actors.is_agent, actors.is_system)),
    "A9": lambda: (modern := actors.user("u", "U")) is normalize_actor(modern),
    "A10": lambda: normalize_actor({"kind": "user"}) == UserActor("legacy:user", "Du"),
    "A11": lambda: (
        normalize_actor({"kind": "ai", "missionId": "m1", "iterationId": "i1", "rationale": "r"})
        == AgentActor("legacy:ai-default", "Unbekannt", "m1", "i1", "r")
    ),
    "A12": lambda: (
        normalize_actor({"kind": "system", "source": "projection"}) == SystemActor("system:projection", "Projektion")
    ),
    "A13": lambda: (
        all(actors.is_user(normalize_actor(raw)) for raw in (None, "hello", {"kind": "alien"}))
        and normalize_actor(None).principal_id == "legacy:user"
    ),
    "A14": lambda: UserActor("legacy:user", "Du") == USER_ACTOR,
}


@pytest.mark.parametrize("name", REFERENCE)
def test_the_cases_of_the_reference(name):
    assert REFERENCE[name]()


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


@pytest.mark.parametrize("actor", [*MODERN, USER_ACTOR, UNKNOWN_ACTOR, MISSION_RUNNER])
def test_actors_cannot_be_altered(actor):
    for name in ("principal_id", "display_name", "kind", "novel"):
        with pytest.raises((FrozenInstanceError, AttributeError, TypeError)):
            setattr(actor, name, "x")
    with pytest.raises(TypeError):
        actors.SYSTEM_DISPLAY_NAMES["system:mcp"] = "x"


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
        ({"kind": "ai", "displayName": "N", "rationale": "r"}, AgentActor("legacy:ai-default", "N", "", "", "r")),
        ({"kind": "user", "principalId": "", "displayName": ""}, UserActor("", "")),
        ({"kind": "system", "source": "projection"}, SystemActor("system:projection", "Projektion")),
        ({"kind": "system", "source": "mission-runner"}, SystemActor("system:mission-runner", "Mission-Runner")),
        ({"kind": "system", "source": "rule"}, SystemActor("system:rule", "Regel")),
        ({"kind": "system", "source": "migration"}, SystemActor("system:migration", "Migration")),
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
    assert not actors.is_mission_runner(None)
    assert not actors.is_mission_runner(UserActor("system:mission-runner", "x"))


def test_the_origin_follows_from_the_actor():
    assert [actors.origin_from_actor(actor) for actor in MODERN] == ["user", "agent", "system", "system"]
    assert actors.origin_from_actor(actors.system("migration")) == "migration"
    assert actors.origin_from_actor(None) == "user"


def test_the_default_agent_has_the_text_of_the_legacy_one():
    assert actors.DEFAULT_AGENT_ID == actors.LEGACY_AI_PRINCIPAL == "legacy:ai-default"
