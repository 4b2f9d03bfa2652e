"""Plans that a model writes into its answer: the reference's parser cases, and what of its defects is mended."""

from __future__ import annotations

import time

import orjson
import pytest

from projector.planner.plan_json import MAX_PLANNED, PlanUnreadable, parse_plan

KNOWN = {"create_task", "create_note"}
STEP = {"summary": "s", "toolName": "create_task", "params": {"title": "Foo"}, "rationale": "r"}
PLAN = {"summary": "plan", "steps": [STEP]}
JSON = orjson.dumps(PLAN).decode()


def with_step(**changes) -> str:
    step = {name: value for name, value in (STEP | changes).items() if value is not ...}
    return orjson.dumps({"steps": [step]}).decode()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(f"```json\n{JSON}\n```", id="fenced, P1"),
        pytest.param(f"```\n{JSON}\n```", id="fence without a tag"),
        pytest.param(f"```JSON\n{JSON}\n```", id="tag in capitals"),
        pytest.param(f"```js\n{JSON}\n```", id="another tag"),
        pytest.param(f"pre ```json {JSON}``` post", id="inline"),
        pytest.param(f"```json{JSON}```", id="no space"),
        pytest.param(f" \n{JSON}\n ", id="bare object"),
        pytest.param(f"{JSON}\nSo viel dazu.", id="object followed by prose"),
        pytest.param(f"Hier {{der Plan}}: {JSON}", id="object after a brace in prose"),
        pytest.param(f"Hier {{ der Plan: {JSON}", id="object after an open brace"),
        pytest.param(f"```json\n{JSON}", id="unterminated fence"),
        pytest.param(f"```text\nkein JSON\n```\n```json\n{JSON}\n```", id="second fence"),
        pytest.param(f'```json\n{{"no": "plan"}}\n```\n{JSON}', id="another object first"),
        pytest.param(f"<think>{{}}</think>{JSON}", id="empty object first"),
    ],
)
def test_a_plan_is_found_wherever_it_stands(answer):
    plan = parse_plan(answer, KNOWN)
    assert (plan.summary, plan.errors) == ("plan", ())
    (step,) = plan.steps
    assert (step.tool, step.params, step.summary, step.rationale) == ("create_task", {"title": "Foo"}, "s", "r")


def test_backticks_and_braces_in_texts_end_nothing():
    params = {"title": 'a ```json {"x": "}" ``` \\" }'}
    answer = f"```json\n{with_step(params=params)}\n```"
    (step,) = parse_plan(answer, KNOWN).steps
    assert step.params == params


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param("", "no JSON block found", id="1 empty"),
        pytest.param("Ich plane nichts.", "no JSON block found", id="1 prose"),
        pytest.param("```json\n```", "no JSON block found", id="1 empty block"),
        pytest.param(f"[{JSON[:-2]}", "no JSON block found", id="1 never closed"),
        pytest.param("{not: valid}", "JSON parse failed: ", id="2"),
        pytest.param('{"steps": [NaN]}', "JSON parse failed: ", id="2 NaN"),
        pytest.param("```json\n7\n```", "top-level value is not an object", id="3 number"),
        pytest.param("```json\nnull\n```", "top-level value is not an object", id="3 null"),
        pytest.param('```json\n"x"\n```', "top-level value is not an object", id="3 string"),
        pytest.param("```json\n[1]\n```", "`steps` must be an array", id="4 array"),
        pytest.param('{"summary": "x"}', "`steps` must be an array", id="4 missing"),
        pytest.param('{"steps": {"0": 1}}', "`steps` must be an array", id="4 object"),
    ],
)
def test_what_is_no_plan_is_said(answer, reason):
    with pytest.raises(PlanUnreadable) as unreadable:
        parse_plan(answer, KNOWN)
    assert unreadable.value.reason.startswith(reason)
    assert unreadable.value.raw in answer


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        pytest.param('{"steps": [7]}', "step[0] is not an object", id="5"),
        pytest.param('{"steps": [null]}', "step[0] is not an object", id="5 null"),
        pytest.param(with_step(toolName=...), "step[0].toolName missing or not a string", id="6"),
        pytest.param(with_step(toolName=7), "step[0].toolName missing or not a string", id="6 number"),
        pytest.param(with_step(toolName=""), "step[0].toolName missing or not a string", id="6 empty"),
        pytest.param(
            with_step(toolName="delete_everything"),
            'step[0].toolName "delete_everything" is not in the allowed tool set',
            id="7, P2",
        ),
        pytest.param(with_step(rationale=...), "step[0].rationale is required (user will see this)", id="8"),
        pytest.param(with_step(rationale=""), "step[0].rationale is required (user will see this)", id="8 empty"),
        pytest.param(
            with_step(toolName="x", rationale=""),
            'step[0].toolName "x" is not in the allowed tool set',
            id="7 before 8",
        ),
    ],
)
def test_a_bad_step_is_said(answer, error):
    plan = parse_plan(answer, KNOWN)
    assert (plan.steps, plan.errors) == ((), (error,))


def test_good_steps_stay_beside_bad_ones():
    steps = [STEP, 7, STEP | {"toolName": "create_note"}, STEP | {"rationale": ""}]
    plan = parse_plan(orjson.dumps({"steps": steps}).decode(), KNOWN)
    assert [(step.index, step.tool) for step in plan.steps] == [(0, "create_task"), (2, "create_note")]
    assert plan.errors == ("step[1] is not an object", "step[3].rationale is required (user will see this)")


@pytest.mark.parametrize(
    ("changes", "field", "value"),
    [
        ({"summary": ...}, "summary", ""),
        ({"summary": 7}, "summary", ""),
        ({"params": ...}, "params", {}),
        ({"params": None}, "params", {}),
        ({"params": "x"}, "params", {}),
        ({"params": [1]}, "params", [1]),
        ({"rationale": " "}, "rationale", " "),
        ({"extra": 1}, "params", {"title": "Foo"}),
    ],
)
def test_what_the_reference_tolerates_is_tolerated(changes, field, value):
    (step,) = parse_plan(with_step(**changes), KNOWN).steps
    assert getattr(step, field) == value


def test_a_plan_may_be_empty_and_need_no_summary():
    plan = parse_plan('{"steps": []}', KNOWN)
    assert (plan.summary, plan.steps, plan.errors) == ("", (), ())


def test_a_plan_without_end_is_read_so_far():
    plan = parse_plan(orjson.dumps({"steps": [STEP] * 1000}).decode(), KNOWN)
    assert len(plan.steps) == MAX_PLANNED
    assert plan.errors == (f"1000 steps, and no more than {MAX_PLANNED} are read",)


@pytest.mark.parametrize(
    "answer",
    [
        "{" * 10**6,
        '{"a":' * 10**5,
        '{"' + '\\"' * 10**6,
        "`" * 10**6,
        "```" + "{" * 10**6,
        '{"a": "' * 10**5 + "}" * 10**6,
    ],
    ids=["braces", "nested", "open string", "backticks", "open fence", "strings"],
)
def test_no_text_takes_long_to_read(answer):
    began = time.process_time()
    with pytest.raises(PlanUnreadable):
        parse_plan(answer, KNOWN)
    assert time.process_time() - began < 3
