"""What a run reads before the model is asked: the inputs that its mission links, and research."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from projector import metrics
from projector.logging import get
from projector.planner import versions
from projector.planner.gates import Verdict
from projector.planner.inputs.records import read_records
from projector.planner.inputs.refs import refs_of
from projector.planner.inputs.resolve import Inputs, readable, resolve
from projector.planner.ledger import ClaimedRun, Pool
from projector.planner.mission import Mission
from projector.planner.research.seek import Pending, Research

log = get("planner")


@dataclass(frozen=True, slots=True)
class Gathering:
    """`pool` is the planner's. `gaps`: whether a mission with an input that cannot be read runs without, or is held."""

    pool: Pool
    research: Research
    gaps: Literal["run", "hold"]

    def is_needed(self, mission: Mission) -> bool:
        """Whether there may be anything to gather; otherwise nothing is read at all."""
        return bool(mission.inputs) or self.research.is_wanted(mission)

    async def gather(self, run: ClaimedRun, mission: Mission) -> Inputs | Verdict | Pending:
        """All of it, or why the run does not go on now. Raises LeaseLostError."""
        linked = None
        # A run that waits for a job does not read records each time it asks for it.
        if not await self.research.is_pending(run, mission):
            linked = await self._linked(run, mission)
            # No research for a run that will not ask.
            if (verdict := self._judge(linked)) is not None:
                return verdict
        found = await self.research.seek(run, mission)
        if isinstance(found, Pending):
            return found
        if linked is None:
            linked = await self._linked(run, mission)
        whole = linked if found is None else linked.with_(found)
        return self._judge(linked) or whole

    async def _linked(self, run: ClaimedRun, mission: Mission) -> Inputs:
        refs = refs_of(mission.inputs)
        found = await read_records(self.pool, run.user_id, readable(refs.wanted))
        inputs = resolve(refs, found)
        for one in inputs.told:
            metrics.INPUTS.labels(module=one.module, outcome="told").inc()
        for gap in inputs.gaps:
            metrics.INPUTS.labels(module=gap.module, outcome=gap.why).inc()
        if inputs.gaps:
            log.warning(
                "inputs cannot be read", run=str(run.run_id), gaps=[(gap.module, gap.why) for gap in inputs.gaps]
            )
        return inputs

    def _judge(self, linked: Inputs) -> Verdict | None:
        if self.gaps == "hold" and linked.gaps:
            return Verdict("hold", "skipped-gaps", f"inputs of the mission cannot be read: {linked.missing}")
        return None


def gathered_for(mission: Mission) -> str:
    """Names the part of a mission that decides what is gathered."""
    decisive = orjson.dumps([mission.inputs, mission.objective, mission.concept])
    return hashlib.sha256(decisive).hexdigest()


def gathered_before(brief: dict[str, Any] | None, mission: Mission) -> Inputs | None:
    """What an earlier attempt of the run gathered, unless the mission asks for something else now."""
    # Retention leaves a brief without its inputs, and another version may have others.
    if brief is None or brief.get("version") not in versions.CONTINUED or "inputs" not in brief:
        return None
    if brief["gatheredFor"] != gathered_for(mission):
        return None
    return Inputs.from_json(brief["inputs"])
