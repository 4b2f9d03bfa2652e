from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from projector.devices import MISSIONS
from projector.devices.review import TAKEN_OVER_AFTER, DecisionRefused, Review
from projector.devices.steps import join_iteration
from projector.fold.items import STEP
from tests.devices.plans import House, iteration, step
from tests.fold.rows import at


def plan(*numbers: int):
    return iteration(*(step(number) for number in numbers or (0, 1)))


def statuses(house: House, review: Review | None = None) -> list[str]:
    """Of the iteration and its steps, as a device shows them."""
    [one] = house.shown(review)
    return [one["overallStatus"], *(each["status"] for each in one["plan"])]


def lines(iteration) -> set[str]:
    """Of the feedback on the whole."""
    return {line.removeprefix("· ") for line in iteration.get("userFeedback", "").split("\n")} - {""}


# One device


def test_approving_runs_the_proposal_and_marks_it_decided_by_the_user():
    house = House()
    house.review.approve(house.planned(plan(0)), "gut")
    [running] = house.review.executions()
    assert (running.status, running.executed, running.decided_by, running.feedback) == (
        "approved",
        False,
        "user",
        "gut",
    )
    assert statuses(house) == ["awaiting-review", "staged"]
    house.review.executed(running)
    [done] = house.review.proposals()
    assert (done.status, done.executed, house.review.executions()) == ("approved", True, [])
    assert statuses(house) == ["approved", "approved"]
    assert house.shown()[0]["userFeedback"] == "gut"


def test_rejecting_keeps_the_feedback_and_runs_nothing():
    house = House()
    house.review.reject(house.planned(plan(0)), "zu viel")
    [rejected] = house.review.proposals()
    assert (rejected.status, rejected.feedback, rejected.decided_by) == ("rejected", "zu viel", "user")
    assert house.review.executions() == []
    assert statuses(house) == ["rejected", "rejected"]
    assert house.shown()[0]["userFeedback"] == "zu viel"


def test_approving_a_rejected_proposal_is_refused():
    house = House()
    proposal = house.planned(plan(0))
    house.review.reject(proposal)
    with pytest.raises(DecisionRefused, match="rejected"):
        house.review.approve(proposal)
    with pytest.raises(DecisionRefused, match="rejected"):
        house.review.reject(proposal)


def test_feedback_on_several_steps_is_appended_line_by_line_and_each_step_keeps_its_own():
    house = House()
    house.planned(plan(0, 1, 2) | {"userFeedback": "Mehr"})
    for proposal, feedback in zip(house.review.proposals(), ["a", "b\nc", "a"], strict=True):
        house.review.reject(proposal, feedback)
    assert house.shown()[0]["userFeedback"] == "Mehr\n· a\n· b\nc"
    assert [one["userFeedback"] for one in house.shown()[0]["plan"]] == ["a", "b\nc", "a"]


def test_a_step_that_was_edited_since_it_was_shown_is_not_approved():
    house = House()
    shown = house.planned(plan(0))
    house.server(iteration(step(intent={"kind": "toolCall", "toolName": "create_task", "params": {"title": "Y"}})))
    house.pull(house.review)
    with pytest.raises(DecisionRefused, match="edited"):
        house.review.approve(shown)
    house.review.approve(house.review.proposals()[0])
    assert house.review.executions()[0].params == {"title": "Y"}


def test_a_step_that_was_edited_after_its_approval_runs_as_it_was_approved():
    house = House()
    house.review.approve(house.planned(plan(0)))
    house.push(house.review)
    house.server(iteration(step(intent={"kind": "toolCall", "toolName": "create_task", "params": {"title": "Y"}})))
    house.pull(house.review)
    assert [one.params for one in house.review.executions()] == [{"title": "X"}]


def test_nothing_of_a_resting_mission_is_approved_or_run_and_all_of_it_may_be_rejected():
    house = House()
    first = house.planned(plan())
    house.review.approve(first)
    house.review.device.edit(MISSIONS, "m1", {"state": "paused"})
    second = house.review.proposals()[1]
    assert house.review.executions() == []
    with pytest.raises(DecisionRefused, match="not active"):
        house.review.approve(second)
    house.review.reject(second)
    house.review.device.edit(MISSIONS, "m1", {"state": "active"})
    assert [one.step_id for one in house.review.executions()] == ["I-0"]


def test_a_failed_execution_is_marked_and_is_no_approval():
    house = House()
    house.review.approve(house.planned(plan()))
    house.review.failed(house.review.executions()[0], "e" * 200)
    [failed, _] = house.review.proposals()
    assert (failed.status, failed.executed) == ("failed", False)
    assert house.shown()[0]["plan"][0]["summary"] == f"Add task (FEHLER: {'e' * 120})"
    assert (house.review.executions(), statuses(house)) == ([], ["awaiting-review", "failed", "staged"])


@pytest.mark.parametrize(
    ("outcomes", "whole"),
    [
        (["executed", "failed"], "approved"),
        (["executed", "reject"], "approved"),
        (["failed", "reject"], "rejected"),
        (["failed", "failed"], "failed"),
        (["reject", "reject"], "rejected"),
        (["executed", ""], "awaiting-review"),
    ],
)
def test_the_iteration_is_what_its_steps_are_once_none_waits(outcomes, whole):
    house = House()
    house.planned(plan())
    for proposal, outcome in zip(house.review.proposals(), outcomes, strict=True):
        if outcome == "reject":
            house.review.reject(proposal)
        elif outcome:
            house.review.approve(proposal)
            running = house.review.executions()[-1]
            _ = house.review.executed(running) if outcome == "executed" else house.review.failed(running, "x")
    assert statuses(house)[0] == whole
    assert house.viewed()["I"]["overallStatus"] == "awaiting-review"
    house.push(house.review)
    assert house.viewed()["I"]["overallStatus"] == whole


def test_people_decide_as_themselves_and_what_tools_did_is_the_agents():
    house = House()
    house.review.approve(house.planned(plan(0)))
    house.review.executed(house.review.executions()[0])
    house.push(house.review)
    staged, decided, marked = house.log.changes[-3:]
    assert [change.actor["kind"] for change in (staged, decided, marked)] == ["ai", "user", "ai"]
    assert (marked.actor["principalId"], marked.actor["iterationId"], marked.actor["rationale"]) == ("a1", "I", "")


def test_what_is_no_more_cannot_be_decided():
    house = House()
    proposal = house.planned(plan(0))
    house.server(iteration(step(5)))
    house.pull(house.review)
    with pytest.raises(KeyError):
        house.review.approve(proposal)
    with pytest.raises(KeyError):
        house.review.executed(proposal)
    house.review.device.delete(MISSIONS, "m1")
    with pytest.raises(KeyError):
        house.review.reject(proposal)


def test_a_page_that_is_loaded_anew_goes_on_where_it_was():
    house = House()
    house.review.approve(house.planned(plan()))
    again = Review(house.review.device)
    assert again.refresh() == 0
    assert [one.step_id for one in again.executions()] == ["I-0"]
    again.executed(again.executions()[0])
    assert [one.status for one in Review(house.review.device).proposals()] == ["approved", "pending"]


# Several devices


def test_one_device_runs_what_it_approved_and_another_takes_over_after_an_hour():
    house = House(2)
    house.server(plan(0))
    house.exchange()
    one, two = house.reviews
    one.approve(one.proposals()[0])
    house.exchange()
    assert (len(one.executions()), two.executions()) == (1, [])
    house.log.now_us += TAKEN_OVER_AFTER.seconds * 1_000_000
    assert [one.effect_id for one in one.executions()] == [two.effect_id for two in two.executions()]
    two.executed(two.executions()[0])
    house.exchange()
    assert one.executions() == []
    one.executed(one.proposals()[0])  # it had begun as well
    assert one.device.outbox() == []


def test_decisions_of_two_devices_at_once_survive_on_both():
    house = House(2)
    house.server(plan())
    house.exchange()
    one, two = house.reviews
    one.reject(one.proposals()[0], "von eins")
    two.reject(two.proposals()[1], "von zwei")
    house.exchange()
    for review in house.reviews:
        assert statuses(house, review) == ["rejected", "rejected", "rejected"]
        assert lines(house.shown(review)[0]) == {"von eins", "von zwei"}
    assert house.viewed()["I"] == house.shown()[0]


def test_a_refusal_counts_more_than_a_failure_and_less_than_what_was_done():
    for ending, left in (("failed", "rejected"), ("executed", "approved")):
        house = House(2)
        house.server(plan(0))
        house.exchange()
        one, two = house.reviews
        one.approve(one.proposals()[0])
        two.reject(two.proposals()[0], "nein")
        running = one.executions()[0]
        _ = one.failed(running, "x") if ending == "failed" else one.executed(running)
        house.exchange()
        assert {one.status for review in house.reviews for one in review.proposals()} == {left}
        assert house.viewed()["I"]["plan"][0]["status"] == left
        assert house.viewed()["I"]["overallStatus"] == left


def test_a_refusal_that_arrives_before_the_run_stops_it():
    house = House(2)
    house.server(plan(0))
    house.exchange()
    one, two = house.reviews
    one.approve(one.proposals()[0])
    two.reject(two.proposals()[0])
    house.exchange()
    assert one.executions() == two.executions() == []


def test_a_decision_on_an_iteration_that_a_rename_dropped_brings_it_back():
    house = House(2)
    one, two = house.reviews
    proposal = house.planned(plan())
    house.push(one)
    two.device.edit(MISSIONS, "m1", {"title": "neu"})
    house.push(two)
    assert house.pull(one) == 0
    assert house.shown() == []
    assert house.viewed()["I"]["plan"][0]["status"] == "staged"
    assert len(one.proposals("pending")) == 2
    one.reject(proposal, "nein")
    house.exchange()
    for review in house.reviews:
        assert statuses(house, review) == ["awaiting-review", "rejected", "staged"]
        assert review.device.record(MISSIONS, "m1")["title"] == "neu"


def test_a_stale_copy_that_another_device_sent_along_is_repaired_once():
    house = House(2)
    house.server(plan())
    house.exchange()
    one, two = house.reviews
    one.reject(one.proposals()[0], "nein")
    house.push(one)
    two.device.edit(MISSIONS, "m1", {"title": "neu"})
    house.push(two)
    assert house.pull(one) == 1
    assert house.pull(one) == 0
    house.exchange()
    assert statuses(house, two) == ["awaiting-review", "rejected", "staged"]
    assert house.shown(two)[0]["userFeedback"] == "nein"


def test_an_empty_form_does_not_take_feedback_away_and_a_new_text_does():
    known = iteration(userFeedback="a")
    assert join_iteration(known, iteration(userFeedback=""))["userFeedback"] == "a"
    assert join_iteration(known, iteration(userFeedback="b"))["userFeedback"] == "b"
    assert join_iteration(known, {"id": "I", "startedAt": at(1)})["plan"] == []


def test_a_copy_that_knows_less_takes_neither_the_whole_status_nor_what_was_approved():
    approved = iteration(step(status="staged", decidedBy="user"), overallStatus="approved")
    edited = iteration(step(status="staged", intent={"kind": "toolCall", "toolName": "create_task", "params": {}}))
    assert join_iteration(approved, edited) == approved


ACTIONS = ["approve", "reject", "run", "fail", "pull", "pull", "push", "rename", "server", "reload"]


@given(
    st.integers(0, 1 << 32),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTIONS)), min_size=4, max_size=30),
    st.lists(st.integers(-400, 400), min_size=3, max_size=3),
)
def test_decisions_that_people_gave_survive_any_order_of_arrival(seed, actions, clocks):
    chance = random.Random(seed)
    served = plan(0, 1, 2)
    house = House(3)
    house.server(served)
    for review, seconds in zip(house.reviews, clocks, strict=True):
        review.device.clock.offset_us = seconds * 1_000_000
        house.pull(review)
    given_: dict[str, list[tuple[str, str]]] = {"I-0": [], "I-1": [], "I-2": []}
    for number, action in actions:
        review = house.reviews[number]
        pending, running = review.proposals("pending"), review.executions()
        if action == "approve" and pending:
            review.approve(chosen := chance.choice(pending))
            given_[chosen.step_id].append(("staged", ""))
        elif action == "reject" and pending:
            feedback = chance.choice(["", "nein", f"nein {number}"])
            review.reject(chosen := chance.choice(pending), feedback)
            given_[chosen.step_id].append(("rejected", feedback))
        elif action == "run" and running:
            review.executed(running[0])
            given_[running[0].step_id].append(("approved", ""))
        elif action == "fail" and running:
            review.failed(running[0], "x")
            given_[running[0].step_id].append(("failed", ""))
        elif action == "pull":
            house.pull(review)
        elif action == "push":
            house.push(review)
        elif action == "rename":
            review.device.edit(MISSIONS, "m1", {"title": f"t{number}"})
        elif action == "server":
            house.server(served)
        elif action == "reload":
            house.reviews[number] = Review(review.device)
    for review in house.reviews:
        house.push(review)
    shuffled = chance.sample(house.log.changes, len(house.log.changes)) + chance.choices(house.log.changes, k=5)
    viewed = house.viewed(shuffled)
    assert viewed == house.viewed()
    for one in viewed["I"]["plan"]:
        decisions = given_[one["id"]]
        highest = max((status for status, _ in decisions), key=STEP.rank, default="planned")
        assert one["status"] == highest or (highest == "planned" and one["status"] == "staged")
        assert bool(decisions) == ("decidedBy" in one)
        texts = {text for _, text in decisions if text}
        assert one.get("userFeedback", "") in (texts or {""})
    # Who wrote last wins the text of the whole, with all that he knew; each step keeps its own.
    assert bool(lines(viewed["I"])) == any(text for decisions in given_.values() for _, text in decisions)
    assert lines(viewed["I"]) <= {text for decisions in given_.values() for _, text in decisions}
