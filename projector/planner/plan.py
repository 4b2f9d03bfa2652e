"""A plan as the ledger keeps it and the write-back reads it."""

from __future__ import annotations

import hashlib
from typing import Any

import orjson

from projector.planner import versions
from projector.planner.catalogue import CATALOGUE_DIGEST
from projector.planner.outcome import Outcome
from projector.planner.storable import storable


def plan_of(outcome: Outcome, agent: dict[str, str]) -> dict[str, Any]:
    """`agent`: its `id` and `name`."""
    plan: dict[str, Any] = storable(
        {
            "version": versions.PLAN,
            "summary": outcome.summary,
            "steps": [
                {
                    "summary": step.summary or step.tool,
                    "toolName": step.tool,
                    "params": step.arguments,
                    "rationale": step.rationale,
                }
                for step in outcome.steps
            ],
            "stopReason": outcome.stop_reason,
            "rounds": outcome.rounds,
            "rejectedCalls": outcome.rejected,
            "agent": agent,
            "catalogue": CATALOGUE_DIGEST,
        }
    )
    return plan


def plan_bytes(plan: dict[str, Any]) -> bytes:
    """The same bytes for the same plan: `jsonb` does not keep the order of keys."""
    return orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)


def plan_digest(plan: dict[str, Any]) -> str:
    """SHA-256 of `plan_bytes`, in hexadecimal."""
    return hashlib.sha256(plan_bytes(plan)).hexdigest()
