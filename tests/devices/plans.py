"""Plans of a server for tests of their review: one mission, one log, and devices that exchange through it."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from projector.devices import AGENTS, MISSIONS, DeviceClock, Replica
from projector.devices.proposals import Proposal
from projector.devices.review import Review
from projector.fold import fold, following_stamp, format_instant
from projector.fold.iterations import IterationsState, apply, derive
from projector.log.actor import agent
from projector.log.change import Change
from tests.devices.memory_log import MemoryLog
from tests.fold.rows import at, update, us

MISSION = {
    "title": "Garten",
    "objective": "O",
    "state": "active",
    "agentId": "a1",
    "inputs": [],
    "iterations": [],
}
WATCHER = {"name": "Watcher", "state": "active"}


def step(number: int = 0, tool: str = "create_task", *, of: str = "I", **fields: Any) -> dict[str, Any]:
    return {
        "id": f"{of}-{number}",
        "summary": "Add task",
        "intent": {"kind": "toolCall", "toolName": tool, "params": {"title": "X"}},
        "status": "planned",
    } | fields


def iteration(*steps: Any, name: str = "I", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "startedAt": at(1),
        "finishedAt": at(2),
        "plan": list(steps),
        "summary": "S",
        "overallStatus": "awaiting-review",
        "source": "server",
    } | fields


class House:
    """The devices of one user, whose clocks show the log's time, and a mission with its agent on all of them."""

    def __init__(self, devices: int = 1, *, seed: int = 0, **mission: Any) -> None:
        self.log = MemoryLog(us(100), seed)
        self.reviews = [Review(self.device(f"c{number}")) for number in range(devices)]
        first = self.reviews[0].device
        first.create(AGENTS, WATCHER, "a1")
        first.create(MISSIONS, MISSION | mission, "m1")
        self.push(self.reviews[0])
        for review in self.reviews[1:]:
            self.log.pull(review.device)

    def device(self, client_id: str) -> Replica:
        clock = DeviceClock(now=lambda: self.log.now_us)
        return Replica("u1", client_id=client_id, clock=clock, space_id="s1")

    @property
    def review(self) -> Review:
        return self.reviews[0]

    def server(self, *iterations: Any) -> None:
        """The sink's row: the whole array, under a stamp that beats what the log has."""
        self.log.now_us += 1_000_000
        state = fold(change for change in self.log.changes if change.record_id == "m1")
        stamp = following_stamp(self.log.now_us, state.newest_instant([("iterations",)]))
        row = update(0, {"iterations": list(iterations)}, format_instant(stamp))
        row.id, row.created_at_us = str(UUID(int=self.log.now_us)), self.log.now_us
        row.client_id = "mana-ai-runner"
        row.actor = agent("a1", "Watcher", mission_id="m1", iteration_id="I").to_json()
        self.log.changes.append(row)

    def push(self, review: Review) -> None:
        self.log.now_us += 1_000_000
        self.log.push(review.device)

    def pull(self, review: Review) -> int:
        self.log.now_us += 1_000_000
        self.log.pull(review.device)
        return review.refresh()

    def planned(self, *iterations: Any) -> Proposal:
        """A server's iterations, pulled by the first device; its first proposal."""
        self.server(*iterations)
        self.pull(self.review)
        return self.review.proposals()[0]

    def exchange(self, rounds: int = 6) -> None:
        """Until nobody has anything to write; that it comes to that is part of every test."""
        for _ in range(rounds):
            for review in self.reviews:
                self.push(review)
            written = sum(self.pull(review) for review in self.reviews)
            if not written:
                return
        raise AssertionError(f"devices still write after {rounds} rounds")

    def shown(self, review: Review | None = None) -> list[Any]:
        """The array that a device has."""
        record = (review or self.review).device.record(MISSIONS, "m1")
        assert record is not None
        return record["iterations"]

    def viewed(self, changes: list[Change] | None = None) -> dict[str, dict[str, Any]]:
        """Iterations by id as `mission_iterations` has them."""
        state = IterationsState()
        for change in self.log.changes if changes is None else changes:
            if change.table == "aiMissions":
                apply(state, change)
        return {one.fields["id"]: one.fields for one in derive(state)}
