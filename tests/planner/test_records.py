from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

import pytest

from projector.planner.agent import agent_of
from projector.planner.ciphertext import is_ciphertext, scrub
from projector.planner.gates import Load, Situation, judge_load, judge_mission
from projector.planner.iteration import iteration_of
from projector.planner.mission import DEFAULT_AGENT, mission_of
from projector.planner.storable import storable

NOON = datetime(2026, 4, 14, 12, tzinfo=UTC)
ITERATION = UUID("00000000-0000-4000-8000-000000000001")


def situation(mission=None, agent=None, **overrides) -> Situation:
    record = {"state": "active", "title": "T", "objective": "O"} | (mission or {})
    found = Situation(mission_of(record), NOON, agent_of("a", agent or {}))
    return Situation(
        **{name: overrides.get(name, getattr(found, name)) for name in ("mission", "next_run_at", "agent")}
    )


def test_fields_of_any_type_become_a_mission():
    mission = mission_of({"title": 7, "objective": {"a": 1}, "iterations": [1, {"id": "i"}], "agentId": 3})
    assert (mission.title, mission.objective, mission.concept) == ("7", "", "")
    assert mission.iterations == ({"id": "i"},)
    assert mission.agent_id == DEFAULT_AGENT


def test_a_mission_without_an_agent_belongs_to_the_default_one():
    assert mission_of({}).agent_id == mission_of({"agentId": ""}).agent_id == DEFAULT_AGENT
    assert mission_of({"agentId": "a1"}).agent_id == "a1"


def test_numbers_that_clients_stored_as_text_limit_an_agent_all_the_same():
    agent = agent_of("a", {"maxConcurrentMissions": "2", "maxTokensPerDay": "100"})
    assert (agent.max_concurrent, agent.daily_tokens) == (2, 100)


@pytest.mark.parametrize(
    ("value", "expected"), [(None, 1), ("abc", 1), (0, 0), (-3, 0), (2.9, 2), (True, 1), (float("nan"), 1)]
)
def test_the_limit_of_missions_at_once_has_a_safe_reading(value, expected):
    assert agent_of("a", {"maxConcurrentMissions": value}).max_concurrent == expected


@pytest.mark.parametrize(("value", "expected"), [(None, None), (-1, None), ("-1", None), (0, 0), ("0", 0), (5.7, 5)])
def test_a_daily_cap_is_a_number_and_none_when_absent_or_negative(value, expected):
    agent = agent_of("a", {"maxTokensPerDay": value})
    assert (agent.daily_tokens, agent.mistyped) == (expected, None)


@pytest.mark.parametrize("value", ["x", "", True, False, [], {}, [100], "NaN", "inf"])
def test_a_daily_cap_that_is_no_number_is_not_taken_for_none(value):
    verdict = judge_mission(situation(agent={"maxTokensPerDay": value}), NOON, NOON)
    assert verdict is not None
    assert (verdict.action, verdict.decision) == ("hold", "skipped-malformed")
    assert verdict.reason == "the agent's maxTokensPerDay is no number"


@pytest.mark.parametrize("value", ["", "Active", 1, 0, True, False, [], ["active"], {"is": "active"}])
def test_an_agent_in_any_other_state_than_active_is_held(value):
    verdict = judge_mission(situation(agent={"state": value}), NOON, NOON)
    assert verdict is not None
    assert (verdict.action, verdict.decision) == ("hold", "skipped-paused")
    assert len(verdict.reason) > len("the agent is ")


def test_an_agent_without_a_state_is_active():
    assert judge_mission(situation(agent={"state": None}), NOON, NOON) is None


def test_an_agents_encrypted_texts_are_not_read():
    agent = agent_of("a", {"systemPrompt": "enc:1:aa.bb", "memory": " be brief "})
    assert (agent.persona, agent.memory) == ("", "be brief")


def test_nothing_stands_against_a_due_mission_of_an_active_agent():
    assert judge_mission(situation(), NOON, NOON) is None


@pytest.mark.parametrize(
    ("found", "action", "decision"),
    [
        (Situation(None, None, None), "cancel", "mission-gone"),
        (situation({"state": "paused"}), "cancel", "mission-inactive"),
        (situation({"state": "done"}), "cancel", "mission-inactive"),
        (situation(next_run_at=None), "cancel", "mission-rescheduled"),
        (situation(next_run_at=NOON.replace(hour=13)), "cancel", "mission-rescheduled"),
        (situation({"objective": "enc:1:aa.bb"}), "hold", "skipped-encrypted"),
        (situation({"objective": {"a": 1}}), "hold", "skipped-malformed"),
        (situation({"conceptMarkdown": True}), "hold", "skipped-malformed"),
        (situation({"title": " ", "objective": None}), "hold", "skipped-malformed"),
        (Situation(situation().mission, NOON, None), "hold", "skipped-no-agent"),
        (situation(agent={"state": "archived"}), "hold", "skipped-archived"),
        (situation(agent={"state": "paused"}), "hold", "skipped-paused"),
        (situation(agent={"state": "hibernating"}), "hold", "skipped-paused"),
    ],
)
def test_gates_of_mission_and_agent(found, action, decision):
    verdict = judge_mission(found, NOON, NOON)
    assert (verdict and verdict.action, verdict and verdict.decision) == (action, decision)
    assert verdict is None or verdict.reason


@pytest.mark.parametrize(
    ("agent", "load", "decision"),
    [
        ({}, Load(0, 10**9), "admitted"),
        ({}, Load(1, 0), "skipped-concurrency"),
        ({"maxConcurrentMissions": 3}, Load(2, 0), "admitted"),
        ({"maxConcurrentMissions": 0}, Load(0, 0), "skipped-concurrency"),
        ({"maxTokensPerDay": 50000}, Load(0, 49999), "admitted"),
        ({"maxTokensPerDay": 50000}, Load(0, 50000), "skipped-budget"),
        ({"maxTokensPerDay": 0}, Load(0, 0), "skipped-budget"),
    ],
)
def test_gates_of_what_the_agent_has_in_hand(agent, load, decision):
    assert judge_load(agent_of("a", agent), load).decision == decision


def test_ciphertext_is_recognised_and_scrubbed_wherever_it_stands():
    assert is_ciphertext("  enc:1:aa.bb")
    assert not is_ciphertext("siehe enc:1:aa.bb")
    scrubbed = scrub({"enc:1:k": ["vorher enc:1:aW8=.Y3Q= nachher", 1, None]})
    assert "enc:1:" not in str(scrubbed)
    assert "vorher" in str(scrubbed)
    assert "nachher" in str(scrubbed)


def test_what_jsonb_refuses_is_replaced():
    assert storable({"a\0": ["\ud800x", float("nan"), float("inf"), 1.5]}) == {"a\ufffd": ["\ufffdx", None, None, 1.5]}


def test_a_plan_with_steps_awaits_review():
    steps = [{"summary": "create_task", "toolName": "create_task", "params": {"title": "X"}, "rationale": ""}]
    plan = {"summary": "S", "steps": steps}
    assert iteration_of(plan, ITERATION, started_at=NOON, finished_at=NOON.replace(microsecond=999999)) == {
        "id": str(ITERATION),
        "startedAt": "2026-04-14T12:00:00.000Z",
        "finishedAt": "2026-04-14T12:00:00.999Z",
        "plan": [
            {
                "id": f"{ITERATION}-0",
                "summary": "create_task",
                "intent": {"kind": "toolCall", "toolName": "create_task", "params": {"title": "X"}},
                "status": "planned",
            }
        ],
        "summary": "S",
        "overallStatus": "awaiting-review",
        "source": "server",
    }


def test_what_is_long_in_a_plan_is_cut_visibly_in_the_iteration():
    steps = [{"summary": "s" * 501, "toolName": "create_task", "params": {"title": "X" * 9_000}, "rationale": ""}]
    made = iteration_of({"summary": "🌱" * 4_001, "steps": steps}, ITERATION, started_at=NOON, finished_at=NOON)
    assert made["summary"] == "🌱" * 4_000 + "…"
    assert made["plan"][0]["summary"] == "s" * 500 + "…"
    assert made["plan"][0]["intent"]["params"] == {"title": "X" * 9_000}


def test_a_plan_without_steps_needs_no_approval():
    iteration = iteration_of({"summary": "S", "steps": []}, ITERATION, started_at=NOON, finished_at=NOON)
    assert iteration["overallStatus"] == "approved"
