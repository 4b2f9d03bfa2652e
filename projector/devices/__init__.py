"""Devices as the log knows them: replicas that edit, push, pull and merge by the clients' own rules.

They drive demonstrations, and they are an oracle: what a new device shows after pulling the whole log is what a
projection has to show.
"""

from __future__ import annotations

from projector.devices.clock import DeviceClock
from projector.devices.collection import AGENTS, MISSIONS, NOTES, Collection
from projector.devices.difference import REMOVED, difference
from projector.devices.oracle import comparable, new_device_view
from projector.devices.outbox import Pending
from projector.devices.replica import Key, Replica
from projector.devices.server import SyncServer

__all__ = [
    "AGENTS",
    "MISSIONS",
    "NOTES",
    "REMOVED",
    "Collection",
    "DeviceClock",
    "Key",
    "Pending",
    "Replica",
    "SyncServer",
    "comparable",
    "difference",
    "new_device_view",
]
