"""What every run of a worker needs."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from uuid import uuid4

from projector.config import Settings
from projector.llm.chat import ChatModel
from projector.planner.budget import Budget
from projector.planner.conversation import Folding
from projector.planner.gathering import Gathering
from projector.planner.guard import Guard
from projector.planner.ledger import Ledger, Pool
from projector.planner.loop import Format
from projector.planner.pace import Pace
from projector.planner.research.jobs import Jobs
from projector.planner.research.seek import Research
from projector.planner.research.services import ResearchServices


@dataclass(frozen=True, slots=True)
class Planning:
    """Made by `planning_of`."""

    ledger: Ledger
    gathering: Gathering
    budget: Budget
    model: ChatModel
    alias: str
    max_rounds: int
    pace: Pace
    guard: Guard
    form: Format
    folding: Folding
    sub_agents: bool
    max_s: float


def planning_of(
    settings: Settings, pool: Pool, model: ChatModel, pace: Pace, services: ResearchServices | None = None
) -> Planning:
    """What the settings say, under a name of its own for who holds leases."""
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
    research = Research.from_settings(settings, Jobs(pool, owner), services, pace)
    return Planning(
        ledger=Ledger(pool, owner, settings.lease_s),
        gathering=Gathering(pool, research, settings.missions_with_gaps),
        budget=Budget(
            pool,
            owner,
            run=settings.max_tokens_per_run,
            day=settings.max_tokens_per_day,
            hold_s=pace.hold_for_place_s,
        ),
        model=model,
        alias=settings.llm_model,
        max_rounds=settings.planner_max_rounds,
        pace=pace,
        guard=Guard(settings.policy_mode),
        form=settings.planner_format,
        folding=Folding(settings.planner_context_tokens, settings.planner_compact_model or settings.llm_model),
        sub_agents=settings.planner_subagents,
        max_s=settings.planner_max_s,
    )
