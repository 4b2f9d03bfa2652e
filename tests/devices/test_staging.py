from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.devices import AGENTS, MISSIONS
from projector.devices.review import Review
from projector.devices.staging import LIFETIME, proposal_id
from projector.fold import parse_instant
from projector.log.actor import agent
from tests.devices.plans import House, iteration, step
from tests.fold.rows import at

NOTE = {"id": "I-9", "summary": "n", "intent": {"kind": "note", "body": "b"}, "status": "planned"}


def test_a_server_iteration_with_one_planned_step_gives_one_pending_proposal_with_its_intent():
    house = House()
    house.server(iteration(step()))
    assert house.pull(house.review) == 1
    [proposal] = house.review.proposals("pending")
    assert (proposal.mission_id, proposal.iteration_id, proposal.step_id) == ("m1", "I", "I-0")
    assert (proposal.tool, proposal.params, proposal.rationale) == ("create_task", {"title": "X"}, "Add task")
    assert proposal.actor == agent("a1", "Watcher", mission_id="m1", iteration_id="I", rationale="")
    assert (proposal.created_at, proposal.executed, proposal.decided_at) == (at(2), False, "")
    assert house.shown() == [iteration(step(status="staged", proposalId=proposal.id))]


def test_a_step_that_has_a_proposal_is_not_staged_again():
    house = House()
    house.server(iteration(step(status="staged", proposalId="p-of-another")))
    assert house.pull(house.review) == 0
    assert [proposal.id for proposal in house.review.proposals()] == ["p-of-another"]
    house.server(iteration(step(proposalId="p-of-another"), step(1, proposalId="p-2")))
    house.pull(house.review)
    assert [proposal.id for proposal in house.review.proposals()] == ["p-of-another", "p-2"]


@pytest.mark.parametrize("source", [{"source": None}, {"source": "browser"}])
def test_an_iteration_that_a_browser_ran_is_not_staged(source):
    house = House()
    house.server(iteration(step()) | source)
    assert (house.pull(house.review), house.review.proposals()) == (0, [])


def test_the_rationale_is_the_steps_summary_else_the_iterations_else_the_objective():
    house = House()
    house.planned(
        iteration(step(), step(1, summary="")), iteration(step(of="J", summary=""), name="J", summary="", finishedAt=1)
    )
    assert [proposal.rationale for proposal in house.review.proposals()] == ["Add task", "S", "O"]


def test_staging_writes_as_the_agent_and_says_nothing_of_the_objective():
    house = House()
    house.planned(iteration(step()))
    house.push(house.review)
    assert house.log.changes[-1].actor == {
        "kind": "ai",
        "principalId": "a1",
        "displayName": "Watcher",
        "missionId": "m1",
        "iterationId": "I",
        "rationale": "",
    }
    assert house.review.device.actor.kind == "user"


def test_a_mission_without_an_agent_belongs_to_the_default_one():
    house = House(agentId=None)
    actor = house.planned(iteration(step())).actor
    assert (actor.principal_id, actor.display_name) == ("legacy:ai-default", "Mana")


def test_a_note_is_passed_over_and_a_plan_of_notes_needs_nobody():
    house = House()
    house.server(iteration(NOTE))
    house.pull(house.review)
    assert house.review.proposals() == []
    assert house.shown()[0]["overallStatus"] == "approved"
    assert house.shown()[0]["plan"][0]["status"] == "skipped"


def test_a_policy_decides_before_a_person_is_asked():
    house = House()
    house.reviews = [Review(house.review.device, decide=lambda tool: {"a": "auto", "d": "deny"}.get(tool, "propose"))]
    house.server(iteration(step(0, "a"), step(1, "d"), step(2, "p")))
    house.pull(house.review)
    assert [(one.tool, one.status) for one in house.review.proposals()] == [
        ("a", "approved"),
        ("d", "failed"),
        ("p", "pending"),
    ]
    assert [one.tool for one in house.review.executions()] == ["a"]
    assert house.review.proposals("approved")[0].decided_by == "policy"
    assert 'Tool "d" is not available' in house.shown()[0]["plan"][1]["summary"]


def test_the_policy_of_the_missions_own_agent_decides():
    house = House()
    device = house.review.device
    policy = {"tools": {"create_task": "auto", "create_note": "deny"}, "defaultForAi": "propose"}
    device.edit(AGENTS, "a1", {"policy": policy})
    device.create(AGENTS, {"name": "Other", "policy": {"tools": {"create_task": "deny"}}}, "a2")
    tools = ("create_task", "create_note", "create_goal", "no_such_tool")
    house.server(iteration(*(step(number, tool) for number, tool in enumerate(tools))))
    house.pull(house.review)
    assert [(one.tool, one.status, one.decided_by) for one in house.review.proposals()] == [
        ("create_task", "approved", "policy"),
        ("create_note", "failed", ""),
        ("create_goal", "pending", ""),
        ("no_such_tool", "pending", ""),
    ]
    assert [one.tool for one in house.review.executions()] == ["create_task"]
    device.edit(MISSIONS, "m1", {"agentId": "a2"})
    house.server(iteration(step(0, "create_task", of="J"), name="J"))
    house.pull(house.review)
    assert [one.status for one in house.review.proposals() if one.iteration_id == "J"] == ["failed"]


@pytest.mark.parametrize("what", ["paused", "archived agent", "deleted agent", "unknown agent", "deleted mission"])
def test_nothing_is_staged_for_what_rests_until_it_is_back(what):
    house = House()
    device = house.review.device
    rest, wake = {
        "paused": (
            lambda: device.edit(MISSIONS, "m1", {"state": "paused"}),
            lambda: device.edit(MISSIONS, "m1", {"state": "active"}),
        ),
        "archived agent": (
            lambda: device.edit(AGENTS, "a1", {"state": "archived"}),
            lambda: device.edit(AGENTS, "a1", {"state": "active"}),
        ),
        "deleted agent": (lambda: device.delete(AGENTS, "a1"), lambda: device.restore(AGENTS, "a1")),
        "unknown agent": (
            lambda: device.edit(MISSIONS, "m1", {"agentId": "a2"}),
            lambda: device.create(AGENTS, {"name": "B"}, "a2"),
        ),
        "deleted mission": (lambda: device.delete(MISSIONS, "m1"), lambda: device.restore(MISSIONS, "m1")),
    }[what]
    rest()
    house.server(iteration(step()))
    assert house.pull(house.review) == 0
    assert house.review.proposals() == []
    wake()
    # Each of them was an edit of the mission or none; the server's array is the newest all the same.
    house.server(iteration(step()))
    assert house.pull(house.review) == 1
    assert len(house.review.proposals("pending")) == 1


def test_one_proposal_expired_and_one_pending():
    house = House()
    house.server(
        iteration(step(), finishedAt="2020-01-01T00:00:00.000Z"),
        iteration(step(of="J"), name="J", finishedAt="2099-01-01T00:00:00.000Z"),
    )
    house.pull(house.review)
    [old] = house.review.proposals("expired")
    [new] = house.review.proposals("pending")
    assert (old.iteration_id, old.decided_by, new.iteration_id) == ("I", "auto-expire", "J")
    assert [one["overallStatus"] for one in house.shown()] == ["failed", "awaiting-review"]


def test_a_proposal_expires_when_its_time_is_over_and_a_decided_one_never():
    house = House()
    first = house.planned(iteration(step(), step(1)))
    house.review.approve(first)
    left_us = parse_instant(first.expires_at) - house.log.now_us
    assert abs(timedelta(microseconds=left_us) - LIFETIME) < timedelta(minutes=3)
    house.log.now_us += left_us
    assert house.review.refresh() == 0
    house.log.now_us += 1000
    assert house.review.refresh() == 1
    assert [one.status for one in house.review.proposals()] == ["approved", "expired"]


def test_proposals_are_found_by_module_and_by_mission_newest_plan_first():
    house = House()
    house.review.device.create(MISSIONS, {"state": "active"}, "m2")
    house.review.device.edit(MISSIONS, "m2", {"iterations": [iteration(step(of="K", tool="create_event"), name="K")]})
    house.planned(iteration(step(), step(1)), iteration(step(of="J"), name="J", finishedAt=at(9)))
    assert [one.step_id for one in house.review.proposals()] == ["J-0", "I-0", "I-1", "K-0"]
    assert [one.step_id for one in house.review.proposals(mission_id="m2")] == ["K-0"]
    assert [one.step_id for one in house.review.proposals(module="calendar")] == ["K-0"]
    assert len(house.review.proposals(module="todo")) == 3


def test_an_edit_after_staging_shows_in_what_waits_and_new_steps_are_staged():
    house = House()
    before = house.planned(iteration(step(), step(1)))
    edited = step(intent={"kind": "toolCall", "toolName": "create_task", "params": {"title": "Y"}})
    house.server(iteration(edited, step(2)))
    house.pull(house.review)
    first, second = house.review.proposals("pending")
    assert (first.id, first.params, second.step_id) == (before.id, {"title": "Y"}, "I-2")


def test_the_same_iteration_delivered_again_takes_nothing_back():
    house = House()
    house.review.approve(house.planned(iteration(step(), step(1))))
    [running] = house.review.executions()
    house.review.executed(running)
    done = house.shown()
    house.push(house.review)
    house.server(iteration(step(), step(1)))
    assert house.pull(house.review) == 1
    assert house.shown() == done
    assert house.review.executions() == []


def test_what_is_no_iteration_and_no_step_of_ours_stays_as_it_is():
    odd_steps = [7, None, {"summary": "no id"}, {"id": "x"}, {"id": "y", "intent": {"kind": "toolCall"}, "status": 3}]
    odd = [3, None, {"id": 4}, iteration(name="E", plan=None), iteration(name="A", archivedAt=at(1))]
    house = House()
    house.server(*odd, iteration(*odd_steps, step()))
    house.pull(house.review)
    assert house.shown()[:-1] == odd
    assert house.shown()[-1]["plan"][:-1] == odd_steps
    assert len(house.review.proposals()) == 1


def test_names_do_not_run_together():
    assert proposal_id("a", "bc") != proposal_id("ab", "c")


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["push", "pull", "stage", "again", "edit", "rename"])), max_size=30
    ),
    st.lists(st.integers(-400, 400), min_size=4, max_size=4),
)
def test_any_number_of_devices_stage_the_same_proposals_in_any_order_and_number_of_times(steps, clocks):
    plan = iteration(step(), step(1), NOTE, step(2, "create_event"))
    house = House(4)
    for review, seconds in zip(house.reviews, clocks, strict=True):
        review.device.clock.offset_us = seconds * 1_000_000
    house.server(plan)
    for number, what in steps:
        review = house.reviews[number]
        if what == "push":
            house.push(review)
        elif what == "pull":
            house.log.pull(review.device)
        elif what == "stage":
            review.refresh()
        elif what == "again":
            house.reviews[number] = Review(review.device)  # the page was loaded anew
        elif what == "rename":
            review.device.edit(MISSIONS, "m1", {"title": f"t{number}"})
        else:
            house.server(plan | {"summary": f"edited {number}"})
    for review in house.reviews:
        house.push(review)
    house.server(plan)  # renames may have dropped it: the server appends it again
    house.exchange()
    expected = {proposal_id("I", f"I-{number}") for number in range(3)}
    for review in house.reviews:
        assert {one.id for one in review.proposals("pending")} == expected
    # Clocks that are far apart keep an array from some devices, and from a new one; not from the view.
    viewed = {one["id"]: one for one in house.viewed()["I"]["plan"]}
    assert {one["proposalId"] for one in viewed.values() if "proposalId" in one} == expected
