from __future__ import annotations

import pytest

from projector.planner.catalogue import CATALOGUE
from projector.planner.policy import allowed_tools
from projector.planner.tools import Parameter, RejectedCall, Tool, check_call, function_schema

OFFERED = {tool.name: tool for tool in CATALOGUE}
EVENT = {"title": "T", "startTime": "2026-01-01T10:00Z", "endTime": "2026-01-01T11:00Z"}


def names(policy) -> list[str]:
    return [tool.name for tool in allowed_tools(CATALOGUE, policy)]


def test_a_tool_has_the_wire_form_of_function_calling():
    tool = Tool("t", "m", "d", (Parameter("a", "string", required=True), Parameter("b", "number", enum=("1", "2"))))
    assert function_schema(tool) == {
        "type": "function",
        "function": {
            "name": "t",
            "description": "d",
            "parameters": {
                "type": "object",
                "properties": {"a": {"type": "string"}, "b": {"type": "number", "enum": ["1", "2"]}},
                "required": ["a"],
            },
        },
    }


def test_names_are_unique_and_every_tool_says_what_it_does():
    assert len(OFFERED) == len(CATALOGUE)
    assert all(tool.name and tool.module and tool.description for tool in CATALOGUE)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("create_task", {"title": "Gießen"}),
        ("create_task", {"title": "", "priority": "high"}),
        ("create_task", {"title": "T", "dueDate": None}),
        ("create_event", EVENT | {"isAllDay": False}),
    ],
)
def test_a_call_that_holds_is_taken_as_it_is(name, arguments):
    assert check_call(OFFERED, name, arguments) == arguments


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("delete_everything", {}, "Unknown tool: delete_everything"),
        ("create_task", None, "one JSON object"),
        ("create_task", [], "one JSON object"),
        ("create_task", {}, "Missing required parameter: title"),
        ("create_task", {"title": None}, "Missing required parameter: title"),
        ("create_task", {"title": 7}, "Parameter title must be of type string"),
        ("create_task", {"title": "T", "priority": "urgent"}, "must be one of: low, medium, high"),
        ("create_task", {"title": "T", "__proto__": {}}, "Unknown parameter: __proto__"),
        ("create_event", EVENT | {"isAllDay": "true"}, "must be of type boolean"),
        ("create_event", EVENT | {"isAllDay": 1}, "must be of type boolean"),
    ],
)
def test_a_call_that_does_not_hold_is_rejected_with_what_is_wrong(name, arguments, message):
    with pytest.raises(RejectedCall, match=message):
        check_call(OFFERED, name, arguments)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("number", [0, 1.5], [True, "1", None]),
        ("integer", [3], [3.0, False]),
        ("array", [[]], [{}, "[]"]),
        ("object", [{}], [[]]),
    ],
)
def test_types_are_those_of_json(kind, good, bad):
    offered = {"t": Tool("t", "m", "d", (Parameter("p", kind, required=True),))}
    for value in good:
        assert check_call(offered, "t", {"p": value})
    for value in bad:
        with pytest.raises(RejectedCall):
            check_call(offered, "t", {"p": value})


def test_without_a_policy_everything_is_offered():
    assert names(None) == [tool.name for tool in CATALOGUE]


def test_a_denied_tool_is_not_offered():
    assert "create_task" not in names({"tools": {"create_task": "deny"}, "defaultForAi": "propose"})


def test_a_denied_module_takes_its_tools_along_but_for_those_that_are_named():
    policy = {
        "tools": {"create_task": "propose"},
        "defaultsByModule": {"todo": "deny"},
        "defaultForAi": "auto",
    }
    assert "create_task" in names(policy)
    assert "complete_tasks_by_title" not in names(policy)


def test_deny_by_default_leaves_what_is_allowed_by_name_or_module():
    assert names({"tools": {}, "defaultForAi": "deny", "defaultsByModule": {"notes": "propose"}}) == ["create_note"]


@pytest.mark.parametrize("policy", [{}, {"tools": None}, {"tools": []}, {"tools": {"create_task": ""}}])
def test_a_policy_with_parts_missing_falls_through_to_propose(policy):
    assert names(policy) == [tool.name for tool in CATALOGUE]


def test_a_decision_that_nobody_knows_denies():
    assert names({"tools": {}, "defaultForAi": "maybe"}) == []
