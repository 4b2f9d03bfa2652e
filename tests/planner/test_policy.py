from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.planner.agent import agent_of
from projector.planner.catalogue import CATALOGUE, PLANNABLE
from projector.planner.policy import allowed_tools, decide, opted_in

TOOL = {tool.name: tool for tool in CATALOGUE}
ALL = [tool.name for tool in PLANNABLE]
DEFAULT = {"tools": {tool.name: tool.default_policy for tool in CATALOGUE}, "defaultForAi": "propose"}


def names(policy: object) -> list[str]:
    return [tool.name for tool in allowed_tools(PLANNABLE, policy)]


def of_module(module: str) -> list[str]:
    return [tool.name for tool in PLANNABLE if tool.module == module]


# The reference's own cases


def test_default_decisions():
    for policy in (None, DEFAULT):
        decided = {name: decide(TOOL[name], policy) for name in ("create_task", "get_task_stats", "log_drink")}
        assert decided == {"create_task": "propose", "get_task_stats": "auto", "log_drink": "auto"}


def test_every_proposable_tool_is_propose_in_the_default_policy():
    assert {decide(tool, DEFAULT) for tool in CATALOGUE if tool.default_policy == "propose"} == {"propose"}


def test_e10_a_denied_tool_is_not_offered():
    assert sorted(set(ALL) - set(names({"tools": {"create_task": "deny"}, "defaultForAi": "propose"}))) == [
        "create_task"
    ]


def test_e11_a_denied_module_takes_its_tools_along():
    left = names({"tools": {}, "defaultsByModule": {"todo": "deny"}, "defaultForAi": "auto"})
    assert set(ALL) - set(left) == {"create_task", "complete_task", "complete_tasks_by_title"}


def test_e12_deny_by_default_leaves_what_a_module_allows():
    left = names({"tools": {}, "defaultForAi": "deny", "defaultsByModule": {"notes": "propose"}})
    assert sorted(left) == ["add_tag_to_note", "append_to_note", "create_note", "update_note"]


def test_the_event_scout_may_suggest_events_only():
    proposable = {tool.name: "deny" for tool in CATALOGUE if tool.default_policy == "propose"}
    policy = {
        "tools": proposable | {"discover_events": "auto", "suggest_event": "propose"},
        "defaultsByModule": {"events": "propose"},
        "defaultForAi": "deny",
    }
    assert names(policy) == ["suggest_event"]


# Ours


def test_a_denied_module_denies_its_tools_though_every_agent_is_made_with_an_entry_for_each():
    left = names(DEFAULT | {"defaultsByModule": {"finance": "deny"}})
    assert set(ALL) - set(left) == {"add_transaction"}


@pytest.mark.parametrize(
    ("policy", "gone"),
    [
        ({"defaultsByModule": {"broadcasts": "deny"}}, of_module("broadcast")),
        ({"defaultsByModule": {"broadcast": "deny"}}, of_module("broadcast")),
        ({"tools": {"undo_last_drink": "deny"}}, ["undo_drink"]),
        ({"tools": {"comic.createStory": "deny", "create_comic_story": "auto"}}, ["create_comic_story"]),
    ],
)
def test_a_deny_counts_under_every_name(policy, gone):
    assert sorted(set(ALL) - set(names(policy))) == sorted(gone)
    assert gone


def test_another_name_allows_nothing():
    assert names({"tools": {"undo_last_drink": "auto"}, "defaultForAi": "deny"}) == []


@pytest.mark.parametrize(
    "policy", [None, {}, [], "", {"tools": None}, {"tools": []}, {"tools": {"create_task": ""}}, {"defaultForAi": None}]
)
def test_empty_parts_count_as_absent(policy):
    assert names(policy) == ALL


@pytest.mark.parametrize(
    "policy",
    [
        "deny",
        ["create_task"],
        7,
        float("nan"),
        {"defaultForAi": "maybe"},
        {"defaultForAi": "DENY"},
        {"defaultForAi": ["propose"]},
        {"tools": "deny", "defaultForAi": "propose"},
        {"tools": ["create_task"], "defaultForAi": "propose"},
        {"defaultsByModule": True},
    ],
)
def test_what_nobody_can_read_denies(policy):
    assert names(policy) == []


@pytest.mark.parametrize("entry", ["Deny", "deny ", "allow", True, 1, {"decision": "auto"}, float("nan")])
def test_an_entry_that_nobody_can_read_denies_its_tool(entry):
    assert set(ALL) - set(names({"tools": {"create_task": entry}})) == {"create_task"}


def test_names_that_objects_have_by_nature_and_megabytes_mean_nothing():
    strange = {"__proto__": "deny", "constructor": "deny", "toString": "deny", "": "deny", "x" * 1_000_000: "deny"}
    assert names({"tools": strange, "defaultsByModule": strange, "__proto__": {"defaultForAi": "deny"}}) == ALL


def test_an_agents_policy_reaches_the_filter_whatever_its_type():
    assert [names(agent_of("a", {"policy": policy}).policy) for policy in ("deny", None)] == [[], ALL]


def test_only_the_tools_own_auto_opts_in_to_destroying():
    undo = TOOL["undo_drink"]
    assert opted_in(undo, {"tools": {"undo_drink": "auto"}})
    assert not opted_in(undo, {"tools": {"undo_drink": "auto"}, "defaultsByModule": {"drink": "deny"}})
    for policy in (None, DEFAULT, {"defaultsByModule": {"drink": "auto"}, "defaultForAi": "auto"}, "auto", ["auto"]):
        assert not opted_in(undo, policy)


# Whatever the policy's shape

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(0, 2) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=3,
)
DECISIONS = st.sampled_from(["auto", "propose", "deny", "deny", "", "Deny"]) | JSON_VALUES
SOME = st.sampled_from(ALL[::8])
MODULES = st.sampled_from([*sorted({tool.module for tool in PLANNABLE}), "broadcasts"])
POLICIES = JSON_VALUES | st.fixed_dictionaries(
    {},
    optional={
        "tools": st.dictionaries(SOME, DECISIONS, max_size=9) | JSON_VALUES,
        "defaultsByModule": st.dictionaries(MODULES, DECISIONS, max_size=5) | JSON_VALUES,
        "defaultForAi": DECISIONS,
        "other": JSON_VALUES,
    },
)


def permits(policy: Any, name: str, module: str) -> bool:
    """The rule once more, as a list of what must not be."""
    if not policy:
        return True
    if not isinstance(policy, dict):
        return False
    tables = [policy.get("tools") or {}, policy.get("defaultsByModule") or {}]
    if not all(isinstance(table, dict) for table in tables):
        return False
    also = ["broadcasts"] if module == "broadcast" else []
    said = [tables[0].get(name), *(tables[1].get(key) for key in [module, *also])]
    if any(entry and entry not in ("auto", "propose") for entry in said):
        return False
    # What stands under the module's other name denies, but allows nothing.
    return bool(said[0] or said[1]) or (policy.get("defaultForAi") or "propose") in ("auto", "propose")


@given(POLICIES)
def test_the_filter_offers_what_the_policy_permits_and_never_more(policy):
    assert names(policy) == [tool.name for tool in PLANNABLE if permits(policy, tool.name, tool.module)]


@given(POLICIES, st.randoms(use_true_random=False))
def test_no_order_of_keys_or_tools_changes_anything(policy, chance: random.Random):
    def turned(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        items = [(key, turned(inner)) for key, inner in value.items()]
        chance.shuffle(items)
        return dict(items)

    tools = list(PLANNABLE)
    chance.shuffle(tools)
    assert sorted(tool.name for tool in allowed_tools(tools, turned(policy))) == sorted(names(policy))
