"""The review of a server's plans on one device: stage, decide, carry out, and write it all into the missions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from projector.devices.collection import AGENTS, MISSIONS
from projector.devices.proposals import Proposal, Status, proposals_of
from projector.devices.replica import Replica
from projector.devices.staging import LIFETIME, Decide, Terms, failed, stage
from projector.devices.steps import (
    is_named,
    join_iteration,
    server_iterations,
    settle,
    steps_of,
    text,
    with_feedback,
    with_step,
)
from projector.fold.items import STEP, canonical
from projector.fold.stamps import parse_instant
from projector.fold.values import copy_json
from projector.log.actor import DEFAULT_AGENT_ID, DEFAULT_AGENT_NAME, Actor, AgentActor, agent
from projector.planner.catalogue import CATALOGUE
from projector.planner.policy import decide as decide_by_policy

TAKEN_OVER_AFTER = timedelta(hours=1)
"""After that another device runs what was approved on one that stayed away."""

_TOOLS = {name: tool for tool in CATALOGUE for name in (tool.name, *tool.aliases)}


class DecisionRefused(Exception):  # an answer for the person, not a fault of the program
    """A decision that cannot be taken as things stand; the text says why."""


class Review:
    """Reads and edits the missions of `device`. Call `refresh` after each pull.

    It remembers the iterations that it saw: what a stale array of another device took back is written again as soon
    as that array comes in, and a decision on an iteration that was dropped brings it back. Losing the memory loses no
    decision that was pushed: those stand in the log.

    What may run unasked, the policy of the mission's agent says, or `decide` for all of them.
    """

    def __init__(self, device: Replica, *, decide: Decide | None = None, lifetime: timedelta = LIFETIME) -> None:
        self.device = device
        self._decide = decide
        self._lifetime = lifetime
        self._known: dict[tuple[str, str], dict[str, Any]] = {}

    # Staging

    def refresh(self) -> int:
        """Stages what came in, expires what is stale, repairs what was taken back; how many missions were written."""
        now_us = self._now_us()
        written = 0
        for mission_id, mission in self._missions():
            terms = Terms(self._policy(mission), now_us, self.device.client_id, self._lifetime)
            held = self._held(mission)
            array = _array(mission)
            fresh = {id(one): self._joined(mission_id, one) for one in server_iterations(array)}
            if not held:
                fresh = {place: stage(one, terms) for place, one in fresh.items()}
            changed = [
                fresh[id(old)] for old in array if id(old) in fresh and canonical(fresh[id(old)]) != canonical(old)
            ]
            for iteration in fresh.values():
                self._known[mission_id, iteration["id"]] = iteration
            if changed:
                rows = [fresh.get(id(one), one) for one in array]
                self._write(mission_id, rows, self._agent(mission, mission_id, changed[-1]["id"]))
                written += 1
        return written

    # Reading

    def proposals(
        self, status: Status | None = None, *, mission_id: str | None = None, module: str | None = None
    ) -> list[Proposal]:
        """Newest plan first, steps in their order; of missions that are not deleted."""
        found = [
            proposal
            for of_mission, mission in self._missions()
            if mission_id in (None, of_mission)
            for proposal in self._proposals(of_mission, mission)
            if status in (None, proposal.status) and module in (None, _module(proposal.tool))
        ]
        return sorted(found, key=lambda proposal: proposal.created_at, reverse=True)

    def executions(self) -> list[Proposal]:
        """Approved proposals that this device has to run now.

        Those decided here, and those whose device stayed away for an hour. Two devices may come to run the same one;
        `effect_id` makes that one record.
        """
        late_us = self._now_us() - TAKEN_OVER_AFTER // timedelta(microseconds=1)
        missions = dict(self._missions())
        return [
            proposal
            for proposal in self.proposals("approved")
            if not proposal.executed
            and (proposal.decided_on == self.device.client_id or (parse_instant(proposal.decided_at) or 0) <= late_us)
            and not self._held(missions[proposal.mission_id])
        ]

    # Deciding

    def approve(self, proposal: Proposal, feedback: str = "") -> None:
        """Lets a proposal run, as it was shown.

        Raises DecisionRefused when it was decided already, edited since it was shown, or when its mission or agent
        rests; KeyError when it is no more.
        """
        if reason := self._held(self._pending(proposal)):
            raise DecisionRefused(reason)
        self._decided(proposal, {"decidedOn": self.device.client_id}, feedback)

    def reject(self, proposal: Proposal, feedback: str = "") -> None:
        """Refuses a proposal; the feedback reaches the next plan. Raises DecisionRefused and KeyError as `approve`."""
        self._pending(proposal)
        self._decided(proposal, {"status": "rejected"}, feedback)

    def executed(self, proposal: Proposal) -> None:
        """Marks that the tool did its work. That counts whatever was decided meanwhile; twice is once."""
        self._settle(proposal, lambda step: {"status": "approved", "executedAt": self.device.clock.text()})

    def failed(self, proposal: Proposal, message: str) -> None:
        """Marks that the tool failed. A person's refusal, and another device's success, count more."""
        self._settle(proposal, lambda step: failed(step, message))

    def mark(self, mission_id: str, iteration_id: str, **fields: Any) -> None:
        """Writes fields of an iteration itself. Raises KeyError when it is unknown."""
        iteration = {**self._iteration(mission_id, iteration_id), **fields}
        self._replace(mission_id, iteration, self.device.actor)

    def knows(self, mission_id: str, iteration_id: str) -> bool:
        """Whether the mission is here, and a server's iteration of that id was seen in it."""
        missions = dict(self._missions())
        return mission_id in missions and iteration_id in self._iterations(mission_id, missions[mission_id])

    # Inside

    def _pending(self, proposal: Proposal) -> dict[str, Any]:
        """The mission of a proposal that waits, as shown, for a decision."""
        mission = self._mission(proposal.mission_id)
        found = self._proposals(proposal.mission_id, mission)
        place = (proposal.iteration_id, proposal.step_id)
        current = next((one for one in found if (one.iteration_id, one.step_id) == place), None)
        if current is None:
            raise KeyError(proposal.id)
        if current.status != "pending":
            raise DecisionRefused(f"the proposal is {current.status}")
        if canonical([current.tool, current.params]) != canonical([proposal.tool, proposal.params]):
            raise DecisionRefused("the step was edited since it was shown")
        return mission

    def _decided(self, proposal: Proposal, fields: dict[str, Any], feedback: str) -> None:
        fields = {**fields, "decidedAt": self.device.clock.text(), "decidedBy": "user"}
        iteration = self._iteration(proposal.mission_id, proposal.iteration_id)
        if feedback:
            fields["userFeedback"] = feedback
            iteration = with_feedback(iteration, feedback)
        iteration = settle(with_step(iteration, proposal.step_id, **fields))
        self._replace(proposal.mission_id, iteration, self.device.actor)

    def _settle(self, proposal: Proposal, outcome: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        iteration = self._iteration(proposal.mission_id, proposal.iteration_id)
        step = next((one for one in steps_of(iteration) if one["id"] == proposal.step_id), None)
        if step is None:
            raise KeyError(proposal.step_id)
        fields = outcome(step)
        if STEP.rank(fields["status"]) > STEP.rank(text(step, "status")):
            iteration = settle(with_step(iteration, proposal.step_id, **fields))
            self._replace(proposal.mission_id, iteration, proposal.actor)

    def _replace(self, mission_id: str, iteration: dict[str, Any], actor: Actor) -> None:
        rows = _array(self._mission(mission_id))
        places = [number for number, one in enumerate(rows) if is_named(one) and one["id"] == iteration["id"]]
        for number in places:
            rows[number] = iteration
        self._known[mission_id, iteration["id"]] = copy_json(iteration)
        self._write(mission_id, rows if places else [*rows, iteration], actor)

    def _write(self, mission_id: str, rows: list[Any], actor: Actor) -> None:
        with _acting(self.device, actor):
            self.device.edit(MISSIONS, mission_id, {"iterations": rows})

    def _missions(self) -> Iterator[tuple[str, dict[str, Any]]]:
        for key, record in self.device.records().items():
            if key[:2] == MISSIONS[:2] and not record.get("deletedAt"):
                yield key.record_id, record

    def _mission(self, mission_id: str) -> dict[str, Any]:
        mission = self.device.record(MISSIONS, mission_id)
        if mission is None or mission.get("deletedAt"):
            raise KeyError(mission_id)
        return mission

    def _joined(self, mission_id: str, seen: dict[str, Any]) -> dict[str, Any]:
        known = self._known.get((mission_id, seen["id"]))
        return seen if known is None else join_iteration(known, seen)

    def _iterations(self, mission_id: str, mission: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """What is shown, joined with what is known, and what is known alone."""
        found = {key: one for (of_mission, key), one in self._known.items() if of_mission == mission_id}
        for one in server_iterations(_array(mission)):
            found[one["id"]] = self._joined(mission_id, one)
        return found

    def _iteration(self, mission_id: str, iteration_id: str) -> dict[str, Any]:
        return self._iterations(mission_id, self._mission(mission_id))[iteration_id]

    def _proposals(self, mission_id: str, mission: dict[str, Any]) -> Iterator[Proposal]:
        writer = self._agent(mission, mission_id, "")
        for iteration in self._iterations(mission_id, mission).values():
            yield from proposals_of(
                mission_id, mission, iteration, writer.principal_id, writer.display_name, self._lifetime
            )

    def _policy(self, mission: dict[str, Any]) -> Decide:
        """A tool that the catalogue does not know has no policy: a person decides."""
        if self._decide is not None:
            return self._decide
        record = self.device.record(AGENTS, text(mission, "agentId") or DEFAULT_AGENT_ID) or {}
        policy = record.get("policy")
        return lambda name: decide_by_policy(_TOOLS[name], policy) if name in _TOOLS else "propose"

    def _agent(self, mission: dict[str, Any], mission_id: str, iteration_id: str) -> AgentActor:
        agent_id = text(mission, "agentId") or DEFAULT_AGENT_ID
        name = text(self.device.record(AGENTS, agent_id) or {}, "name") or DEFAULT_AGENT_NAME
        return agent(agent_id, name, mission_id=mission_id, iteration_id=iteration_id)

    def _held(self, mission: dict[str, Any]) -> str:
        """Why nothing of the mission is staged or run now; '' when nothing is in the way."""
        if mission.get("state") != "active":
            return "the mission is not active"
        agent_id = text(mission, "agentId") or DEFAULT_AGENT_ID
        record = self.device.record(AGENTS, agent_id)
        if record is None:
            return "" if agent_id == DEFAULT_AGENT_ID else "the agent is not known here"
        gone = record.get("deletedAt") or record.get("state") == "archived"
        return "the agent is archived or deleted" if gone else ""

    def _now_us(self) -> int:
        return parse_instant(self.device.clock.text()) or 0


def _module(tool: str) -> str | None:
    return _TOOLS[tool].module if tool in _TOOLS else None


def _array(mission: dict[str, Any]) -> list[Any]:
    array = mission.get("iterations")
    return array if isinstance(array, list) else []


@contextmanager
def _acting(device: Replica, actor: Actor) -> Iterator[None]:
    before, device.actor = device.actor, actor
    try:
        yield
    finally:
        device.actor = before
