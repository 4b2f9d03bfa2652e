"""Where a run can be killed, and by how many modes of the model that is multiplied."""

from __future__ import annotations

import random
from dataclasses import dataclass

from tests.plan_faults.modes import MODES, Mode

SWEPT_AT_ONCE = 4
"""Plans that the sink writes together, in production more than the load ever leaves to it."""


@dataclass(frozen=True, slots=True)
class Point:
    """A crash point, and the pass at which it fires: drawn from 1 to `passes`.

    `stopped`: it is passed by a process that was told to stop, while it has a run in hand. `unwritten`: so many plans
    wait when the process starts; without them, whether it ever passes is luck.
    """

    name: str
    passes: int = 1
    modes: tuple[Mode, ...] = MODES
    stopped: bool = False
    unwritten: int = 0

    @property
    def stream(self) -> str:
        return self.name.partition(".")[0]

    def crash_at(self, numbers: random.Random) -> str:
        return f"{self.name}:{numbers.randint(1, self.passes)}"


POINTS = (
    Point("timers.before_commit", passes=3),
    Point("timers.after_commit", passes=3),
    Point("planner.claimed", passes=4),
    Point("planner.after_claim", passes=4),
    Point("planner.before_admit_commit", passes=4),
    Point("planner.after_admit", passes=4),
    Point("planner.after_research_intent", passes=2, modes=("normal", "fails")),
    Point("planner.after_research_submit", passes=2, modes=("normal", "fails")),
    Point("planner.after_research_stored", passes=2, modes=("normal", "fails")),
    Point("planner.before_first_ask", passes=4),
    Point("planner.after_llm_before_store", passes=6),
    Point("planner.after_step_stored", passes=6),
    Point("planner.after_tool_stored", passes=6),
    Point("planner.before_next_ask", passes=3),
    Point("planner.before_plan_stored", passes=3),
    Point("planner.after_plan_stored", passes=3),
    Point("planner.before_settle", passes=2),
    Point("planner.after_settle", passes=2),
    Point("planner.after_failure_stored", modes=("rubbish", "fails")),
    Point("planner.after_renew"),
    Point("planner.before_hand_back", stopped=True),
    Point("planner.after_hand_back", stopped=True),
    Point("sink.plan_locked", passes=4),
    Point("sink.before_mark", passes=4),
    Point("sink.before_commit", passes=4),
    Point("sink.after_commit", passes=4),
    Point("sink.mid_sweep", passes=2, unwritten=2 * SWEPT_AT_ONCE),
    Point("sink.restore_before_commit"),
    Point("sink.restore_after_commit"),
)


@dataclass(frozen=True, slots=True)
class Pair:
    """One field of the matrix; `every`: strikes between two verifications."""

    point: Point
    mode: Mode
    every: int = 10
    slow: bool = False
    share: float = 1.0

    @property
    def name(self) -> str:
        return f"{self.point.name}/{self.mode}"


PAIRS = tuple(Pair(point, mode) for point in POINTS for mode in point.modes)
