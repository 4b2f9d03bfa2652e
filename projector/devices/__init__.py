"""Devices as the log knows them: replicas that edit, push, pull and merge by the clients' own rules.

They drive demonstrations, and they are an oracle: what a new device shows after pulling the whole log is what a
projection has to show. A `Review` is what such a device does with the plans of a server: staging, decisions, their
execution; `revert` takes an iteration back, and `timeline` shows what agents did.
"""

from __future__ import annotations

from projector.devices.clock import DeviceClock
from projector.devices.collection import AGENTS, MISSIONS, NOTES, Collection
from projector.devices.difference import REMOVED, difference
from projector.devices.oracle import comparable, new_device_view
from projector.devices.outbox import Pending
from projector.devices.proposals import Proposal
from projector.devices.replica import Key, Replica
from projector.devices.reversal import Reversal, Undo, reversal
from projector.devices.revert import Reverted, revert
from projector.devices.review import DecisionRefused, Review
from projector.devices.server import SyncServer
from projector.devices.timeline import Bucket, by_iteration, timeline

__all__ = [
    "AGENTS",
    "MISSIONS",
    "NOTES",
    "REMOVED",
    "Bucket",
    "Collection",
    "DecisionRefused",
    "DeviceClock",
    "Key",
    "Pending",
    "Proposal",
    "Replica",
    "Reversal",
    "Reverted",
    "Review",
    "SyncServer",
    "Undo",
    "by_iteration",
    "comparable",
    "difference",
    "new_device_view",
    "reversal",
    "revert",
    "timeline",
]
