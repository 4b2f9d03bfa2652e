"""The tables that a device keeps, by the names the log has for them."""

from __future__ import annotations

from typing import NamedTuple


class Collection(NamedTuple):
    """`timed`: whether the module puts `createdAt` and `updatedAt` into the records it creates."""

    app_id: str
    table: str
    timed: bool = True


MISSIONS = Collection("ai", "aiMissions")
AGENTS = Collection("ai", "agents")
NOTES = Collection("notes", "notes", timed=False)
