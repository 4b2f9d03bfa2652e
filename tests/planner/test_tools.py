from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator, FormatChecker

from projector.planner.catalogue import CATALOGUE
from projector.planner.tools import MAX_CHARS, MAX_DEPTH, Parameter, RejectedCall, Tool, check_call, function_schema

OFFERED = {tool.name: tool for tool in CATALOGUE}
EVENT = {"title": "T", "startTime": "2026-01-01T10:00Z", "endTime": "2026-01-01T11:00Z"}
INVOICE = {"clientName": "C", "lines": [{"title": "T", "quantity": 1, "unitPrice": 9.5}]}


def tool(*parameters: Parameter, **fields: Any) -> Tool:
    return Tool("ping", "m", "d", parameters, **fields)


def schema(kind: str, **more: Any) -> dict[str, Any]:
    return {"type": kind, "description": "d"} | more


def test_f1_a_tool_without_parameters():
    assert function_schema(tool()) == {
        "type": "function",
        "function": {
            "name": "ping",
            "description": "d",
            "parameters": {"type": "object", "properties": {}, "required": []},
        },
    }


def test_f2_types_and_required_names():
    made = function_schema(
        tool(
            Parameter("title", schema("string"), required=True),
            Parameter("count", schema("number")),
            Parameter("enabled", schema("boolean")),
        )
    )["function"]["parameters"]
    assert {name: shown["type"] for name, shown in made["properties"].items()} == {
        "title": "string",
        "count": "number",
        "enabled": "boolean",
    }
    assert made["required"] == ["title"]


def test_f3_an_enum_is_kept_and_f4_none_is_made_up():
    made = function_schema(
        tool(Parameter("color", schema("string", enum=["red", "blue", "green"])), Parameter("name", schema("string")))
    )["function"]["parameters"]["properties"]
    assert made["color"] == {"type": "string", "description": "d", "enum": ["red", "blue", "green"]}
    assert "enum" not in made["name"]


def test_f5_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="Unsupported parameter type: fruit"):
        Parameter("p", schema("fruit"))


def test_whoever_changes_a_schema_that_was_given_out_does_not_change_the_tool():
    offered = tool(Parameter("color", schema("string", enum=["red"])))
    function_schema(offered)["function"]["parameters"]["properties"]["color"]["enum"].append("blue")
    assert function_schema(offered)["function"]["parameters"]["properties"]["color"]["enum"] == ["red"]


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("create_task", {"title": "Gießen"}),
        ("create_task", {"title": "", "priority": "high"}),
        ("create_task", {"title": "T", "dueDate": "2028-02-29"}),
        ("create_event", EVENT | {"isAllDay": False}),
        ("create_event", EVENT | {"startTime": "2026-01-01", "endTime": "2026-01-01T23:59:59.5+01:00"}),
        ("create_place", {"name": "Pol", "latitude": -90, "longitude": 0.0}),
        ("rate_library_entry", {"entryId": "e", "rating": 5}),
        ("rate_library_entry", {"entryId": "e", "rating": 1}),
        ("add_article_highlight", {"articleId": "a", "text": "x" * 500}),
        ("import_articles_from_urls", {"urls": ["u"] * 50}),
        ("create_invoice", INVOICE),
        ("undo_drink", {}),
    ],
)
def test_a_call_that_holds_is_taken_as_it_is(name, arguments):
    assert check_call(OFFERED, name, arguments) == arguments


def test_null_stands_for_a_parameter_left_out():
    assert check_call(OFFERED, "create_task", {"title": "T", "dueDate": None, "due": None}) == {"title": "T"}


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("delete_everything", {}, "Unknown tool: delete_everything"),
        ("record_visit", {"placeId": "p"}, "Did you mean visit_place?"),
        ("comic.createStory", {}, "Did you mean create_comic_story?"),
        ("create_tasks", {"title": "T"}, "Did you mean create_task"),
        ("createTask", {"title": "T"}, "Did you mean create_task"),
        ("create_reminder", {"title": "T"}, "Unknown tool: create_reminder$"),
        ("CREATE_TASK", {"title": "T"}, "Unknown tool: CREATE_TASK"),
        ("__proto__", {}, "Unknown tool: __proto__"),
        ("create_task", None, "one JSON object"),
        ("create_task", [], "one JSON object"),
        ("create_task", '{"title": "T"}', "one JSON object"),
        ("create_task", {}, "Missing required parameter: title"),
        ("create_task", {"title": None}, "Missing required parameter: title"),
        ("create_task", {"title": 7}, "Parameter title must be of type string"),
        ("create_task", {"title": "T", "priority": "urgent"}, "must be one of: low, medium, high"),
        ("create_task", {"title": "T", "priority": "HIGH"}, "must be one of: low, medium, high"),
        ("create_task", {"title": "T", "due": "x"}, "Unknown parameter: due. create_task takes "),
        ("create_task", {"title": "T", "__proto__": {}}, "without a key named __proto__"),
        ("create_task", {"title": "T", "dueDate": "morgen"}, "must be a date as YYYY-MM-DD"),
        ("create_task", {"title": "T", "dueDate": "2026-02-30"}, "must be a date as YYYY-MM-DD"),
        ("create_task", {"title": "T", "dueDate": "20260201"}, "must be a date as YYYY-MM-DD"),
        ("create_task", {"title": "T", "dueDate": "2026-02-01\n"}, "must be a date as YYYY-MM-DD"),
        ("create_event", EVENT | {"startTime": "10 Uhr"}, "Parameter startTime must match"),
        ("create_event", EVENT | {"isAllDay": "true"}, "must be of type boolean"),
        ("create_event", EVENT | {"isAllDay": 1}, "must be of type boolean"),
        ("create_place", {"name": "P", "latitude": "52.5", "longitude": 0}, "latitude must be of type number"),
        ("create_place", {"name": "P", "latitude": 91, "longitude": 0}, "latitude must be at most 90"),
        ("create_place", {"name": "P", "latitude": float("nan"), "longitude": 0}, "Arguments must be one JSON object"),
        ("create_place", {"name": "P", "latitude": float("inf"), "longitude": 0}, "Arguments must be one JSON object"),
        ("rate_library_entry", {"entryId": "e", "rating": True}, "must be of type number"),
        ("rate_library_entry", {"entryId": "e", "rating": 0.5}, "must be at least 1"),
        ("create_website", {"name": "N", "slug": "ab\n"}, "Parameter slug must match"),
        ("create_invoice", {"clientName": "C", "lines": []}, "lines must have at least 1 items"),
        ("create_invoice", {"clientName": "C", "lines": [{"title": "T"}]}, r"lines \[0\] needs quantity"),
        (
            "create_invoice",
            {"clientName": "C", "lines": [INVOICE["lines"][0] | {"quantity": "2"}]},
            r"lines \[0\] .quantity must be of type number",
        ),
        ("import_articles_from_urls", {"urls": ["u"] * 51}, "urls must have at most 50 items"),
        ("add_article_highlight", {"articleId": "a", "text": "short"}, "must have at least 10 characters"),
        ("add_article_highlight", {"articleId": "a", "text": "x" * 501}, "must have at most 500 characters"),
        ("update_website_block", {"blockId": "b", "patch": {"a": [{"constructor": {}}]}}, "without a key named"),
        ("update_website_block", {"blockId": "b", "patch": {1: 2}}, "one JSON object"),
        ("update_website_block", {"blockId": "b", "patch": {"a": {1, 2}}}, "one JSON object"),
        ("create_note", {"content": "x" * MAX_CHARS}, f"at most {MAX_CHARS} characters"),
        ("update_website_block", {"blockId": "b", "patch": {"x" * MAX_CHARS: 1}}, f"at most {MAX_CHARS} characters"),
        ("update_website_block", {"blockId": "b", "patch": {"a": [0] * MAX_CHARS}}, f"at most {MAX_CHARS} characters"),
    ],
)
def test_a_call_that_does_not_hold_is_rejected_with_what_is_wrong(name, arguments, message):
    with pytest.raises(RejectedCall, match=message) as rejected:
        check_call(OFFERED, name, arguments)
    assert len(str(rejected.value)) < 600


def nested(depth: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(depth - 1):
        value = {"a": value}
    return value


def test_nesting_has_a_limit_and_no_depth_breaks_the_check():
    patch = {"blockId": "b", "patch": nested(MAX_DEPTH - 1)}
    assert check_call(OFFERED, "update_website_block", patch) == patch
    for depth in (MAX_DEPTH, 5_000):
        with pytest.raises(RejectedCall, match=f"nested at most {MAX_DEPTH} deep"):
            check_call(OFFERED, "update_website_block", {"blockId": "b", "patch": nested(depth)})


@pytest.mark.parametrize(
    ("name", "arguments"), [("create_task" * 100_000, {}), ("create_task", {"create_task" * 5_000: 1})]
)
def test_however_long_a_name_is_the_answer_is_short(name, arguments):
    with pytest.raises(RejectedCall) as rejected:
        check_call(OFFERED, name, arguments)
    assert len(str(rejected.value)) < 300


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (schema("number"), [0, 1.5], [True, "1", None]),
        (schema("integer"), [3], [3.5, False]),
        (schema("array", items=schema("string")), [[], ["a"]], [{}, "[]", [1]]),
        (schema("object"), [{}], [[]]),
    ],
)
def test_types_are_those_of_json(kind, good, bad):
    offered = {"ping": tool(Parameter("p", kind, required=True))}
    for value in good:
        assert check_call(offered, "ping", {"p": value}) == {"p": value}
    for value in bad:
        with pytest.raises(RejectedCall):
            check_call(offered, "ping", {"p": value})


# Against an implementation of JSON Schema that is not ours

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 99) | st.floats(-99, 99) | st.sampled_from(["", "high", "2026-01-01"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["a", "title"]), inner, max_size=2),
    max_leaves=4,
)


def values_of(shown: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Mostly what the schema wants."""
    match shown["type"]:
        case "string" if "enum" in shown:
            return st.sampled_from(shown["enum"])
        case "string" if "pattern" in shown:
            return st.from_regex(shown["pattern"])
        case "string" if "format" in shown:
            return st.dates().map(str)
        case "string":
            return st.text(max_size=20)
        case "boolean":
            return st.booleans()
        case "number":
            return st.integers(-2, 12) | st.floats(-2, 12)
        case "array":
            return st.lists(values_of(shown["items"]), max_size=2)
    properties = {name: values_of(inner) for name, inner in shown.get("properties", {}).items()}
    return st.fixed_dictionaries({}, optional=properties)


@st.composite
def called(draw: st.DrawFn) -> tuple[Tool, dict[str, Any]]:
    chosen = draw(st.sampled_from(CATALOGUE))
    arguments = {}
    for parameter in chosen.parameters:
        if parameter.required or draw(st.booleans()):
            fitting = draw(st.integers(0, 9)) > 0
            arguments[parameter.name] = draw(values_of(dict(parameter.schema)) if fitting else JSON_VALUES)
    if draw(st.integers(0, 9)) == 0:
        arguments |= draw(st.dictionaries(st.sampled_from(["title", "limit", "extra", ""]), JSON_VALUES, max_size=2))
    return chosen, arguments


@given(called())
def test_a_call_is_taken_exactly_when_the_schema_that_was_shown_allows_it(call):
    chosen, arguments = call
    shown = function_schema(chosen)["function"]["parameters"] | {"additionalProperties": False}
    oracle = Draft202012Validator(shown, format_checker=FormatChecker())
    given_values = {name: value for name, value in arguments.items() if value is not None}
    try:
        taken = check_call(OFFERED, chosen.name, arguments)
    except RejectedCall:
        # `$` of Python's regular expressions lets a line break through, which JSON Schema's does not.
        assert not oracle.is_valid(given_values) or any(str(v).endswith("\n") for v in given_values.values())
    else:
        assert taken == given_values
        oracle.validate(taken)


def test_the_schemas_are_json_schema():
    for each in CATALOGUE:
        Draft202012Validator.check_schema(function_schema(each)["function"]["parameters"])
