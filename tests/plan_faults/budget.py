"""What a kill takes, by the stream that is killed."""

from __future__ import annotations

from collections.abc import Sequence

from tests.faults.budget import Budget, Part
from tests.faults.matrix import Chunk

KILL_S = {"timers": 1.0, "planner": 1.2, "sink": 2.0}


def budget(todo: Sequence[Chunk]) -> Budget:
    kills = dict.fromkeys(KILL_S, 0)
    for chunk in todo:
        kills[chunk.fault.point.stream] += chunk.strikes
    return Budget([Part(count, name, KILL_S[name]) for name, count in kills.items() if count])
