"""Generated histories: several devices of one user, a tool, and a member of a shared space, as real clients write.

FLEET_SEEDS says how many histories the tests generate: a few by default, hundreds when asked for.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from dataclasses import dataclass, replace
from uuid import UUID

from projector.devices import AGENTS, MISSIONS, Collection, DeviceClock, Key, Pending, Replica
from projector.fold import format_instant
from projector.log.change import Change
from tests.devices.memory_log import MemoryLog
from tests.fold.rows import us

SEEDS = int(os.environ.get("FLEET_SEEDS", "24"))
SPACE = "shared"
INGREDIENTS = (
    *("clock set", "clock set back", "offline spell", "concurrent nested edit", "delete", "restore"),
    *("update before insert", "batch stored twice", "second insert", "empty update", "tombstone"),
    *("written again after a tombstone", "another member's change", "delete passed over", "delete that would have won"),
)

CADENCES = [
    {"kind": "manual"},
    {"kind": "daily", "atHour": 9, "atMinute": 30},
    {"kind": "weekly", "atHour": 9, "dayOfWeek": 1},
    {"kind": "interval", "everyMinutes": 15},
    None,
]
GRANTS = [None, {"wrappedKey": "k1", "derivation": {"version": "v1", "recordIds": ["n1"]}, "expiresAt": "x"}]
EDITS = [
    *[{"title": title} for title in "abc"],
    *[{"cadence": cadence} for cadence in CADENCES],
    *[{"grant": grant} for grant in GRANTS],
    *[{"iterations": [{"id": "i1"}]}, {"state": "paused"}, {"state": "paused", "deletedAt": None}, {}],
    *[{"policy": {"tools": {"mail": "deny"}}}, {"policy": {"tools": {"mail": "auto", "task": "deny"}, "x": None}}],
    *[{"policy.tools.mail": "propose"}, {"cadence.atHour": 7}, {"grant.derivation.recordIds": ["n1", "n2"]}],
]


@dataclass
class History:
    """Every row in the order of storing; `found` counts the ingredients."""

    user_id: str
    changes: list[Change]
    found: Counter[str]

    def rows(self) -> dict[Key, list[Change]]:
        """The author's own rows by record."""
        grouped: dict[Key, list[Change]] = {}
        for change in self.changes:
            if change.user_id == self.user_id:
                grouped.setdefault(Key(change.app_id, change.table, change.record_id), []).append(change)
        return grouped


def drive(seed: int, *, rough: bool, steps: int = 90, user_id: str = "u1") -> History:
    """*Tame* devices have right clocks and are seldom away; the tool and the other member are for rough ones alone."""
    fleet = _Fleet(seed, rough=rough, user_id=user_id)
    for step in range(steps):
        fleet.step(step)
    return fleet.finish()


def made(rows: list[Change]) -> list[Change]:
    """From the first row that makes a record: a device passes over what comes before."""
    first = next((n for n, row in enumerate(rows) if row.op == "insert" or row.field_meta), len(rows))
    return rows[first:]


class _Fleet:
    def __init__(self, seed: int, *, rough: bool, user_id: str) -> None:
        self._dice = random.Random(f"fleet {seed}")
        self._rough = rough
        self._log = MemoryLog(us(100_000), seed)
        self._user = user_id
        members = [user_id] * 3 + [f"{user_id}-other"] * rough
        self._devices = [
            Replica(
                member,
                client_id=f"{user_id}-c{number}",
                clock=DeviceClock(now=lambda: self._log.now_us),
                space_id=SPACE + user_id,
            )
            for number, member in enumerate(members)
        ]
        self._away: dict[Replica, int] = {}
        self._staged_at: dict[int, tuple[Pending, int]] = {}
        self._found: Counter[str] = Counter()

    def step(self, step: int) -> None:
        dice, log = self._dice, self._log
        log.now_us += dice.choice((0, 500, 7_000_000))
        device = dice.choice(self._devices)
        if self._rough and dice.random() < 0.1:
            before, device.clock.offset_us = device.clock.offset_us, dice.randint(-300, 300) * 1_000_000
            self._found["clock set"] += 1
            self._found["clock set back"] += device.clock.offset_us < before
        if device not in self._away and dice.random() < 0.05:
            self._away[device] = step + dice.randint(5, 30)
        doing = dice.random()
        if self._rough and doing > 0.97:
            self._tool()
        elif doing < 0.65:
            self._edit(device, step, doing)
        elif step < self._away.get(device, 0):
            return
        elif doing < 0.85:
            self._push(device)
        else:
            log.pull(device)

    def finish(self) -> History:
        for device in self._devices:
            self._push(device, certain=True)
        history = History(self._user, self._log.changes, self._found)
        for rows in history.rows().values():
            inserts = [change for change in rows if change.op == "insert"]
            self._found["second insert"] += len(inserts) > 1
            self._found["update before insert"] += bool(inserts) and rows[0].op == "update"
            gone = next((n for n, c in enumerate(rows) if c.op == "delete" and not c.data), None)
            self._found["written again after a tombstone"] += gone is not None and gone + 1 < len(rows)
            self._count_passed_over(sorted(rows, key=lambda change: (change.created_at_us, change.id)))
        self._found["another member's change"] = sum(change.user_id != self._user for change in history.changes)
        return history

    def _count_passed_over(self, rows: list[Change]) -> None:
        known = made(rows)
        passed = [row.data["deletedAt"] for row in rows[: -len(known)] if row.op == "delete" and row.data]
        if known and passed:
            later = [
                row.field_meta.get("deletedAt") or row.data["deletedAt"] for row in known if "deletedAt" in row.data
            ]
            self._found["delete passed over"] += 1
            self._found["delete that would have won"] += max(passed) > max(later, default="")

    def _edit(self, device: Replica, step: int, doing: float) -> None:
        dice = self._dice
        known = [(key, record) for key, record in device.records().items() if "createdAt" in record]
        if device.user_id == self._user and (not known or doing < 0.1):
            collection = dice.choice((MISSIONS, AGENTS))
            racing = collection is AGENTS and self._rough
            record_id = "legacy:ai-default" if racing else f"{collection.table}-{step}"
            if device.record(collection, record_id) is None:
                fields = {"title": "new", "cadence": CADENCES[1]}
                if collection is MISSIONS:
                    fields["iterations"] = []
                device.create(collection, fields, record_id)
        elif known:
            self._change(device, *dice.choice(known))
        for pending in device.outbox():
            self._staged_at.setdefault(id(pending), (pending, self._log.seen(device)))

    def _change(self, device: Replica, key: Key, record: dict[str, object]) -> None:
        collection = _collection(key)
        what = self._dice.choice(["delete", "restore", *["edit"] * 8])
        if what == "edit":
            device.edit(collection, key.record_id, self._dice.choice(EDITS))
        elif what == "delete":
            if self._rough and self._dice.random() < 0.5:
                device.clock.offset_us -= 60_000_000
                self._found["clock set back"] += 1
            device.delete(collection, key.record_id)
        elif record.get("deletedAt"):
            device.restore(collection, key.record_id)

    def _push(self, device: Replica, *, certain: bool = False) -> None:
        batch = device.outbox()
        before = list(self._log.changes)
        lost = self._rough and not certain and self._dice.random() < 0.2
        stored = self._log.push(device, lose_answer=lost)
        self._found["batch stored twice"] += lost and bool(batch)
        if device in self._away and batch:
            self._found["offline spell"] += 1
        self._away.pop(device, None)
        for pending, change in zip(batch, stored, strict=True):
            self._found["delete"] += change.op == "delete"
            self._found["restore"] += change.op == "update" and "deletedAt" in change.data
            self._found["empty update"] += change.op == "update" and not change.data
            _, seen = self._staged_at[id(pending)]
            unseen = [c for c in before[seen:] if c.client_id != device.client_id and c.record_id == change.record_id]
            heads = {key.split(".")[0] for c in unseen for key in c.data if "." in key}
            self._found["concurrent nested edit"] += any(
                "." in key and key.split(".")[0] in heads for key in change.data
            )

    def _tool(self) -> None:
        """Deletes a record outright, or writes it anew, without knowing of any device."""
        written = [change for change in self._log.changes if change.op == "insert"]
        if not written:
            return
        first = self._dice.choice(written)
        self._log.now_us += 1
        again = self._dice.random() < 0.5
        if again:
            time = format_instant(self._log.now_us)
            data = {"id": first.record_id, "title": "again", "createdAt": time, "updatedAt": time}
        else:
            data = {}
            self._found["tombstone"] += 1
        self._log.changes.append(
            replace(
                first,
                id=str(UUID(int=self._dice.getrandbits(128))),
                op="insert" if again else "delete",
                user_id=self._user,
                client_id="mcp-server",
                data=data,
                field_meta={},
                created_at_us=self._log.now_us,
                actor=None,
                space_id=None,
            )
        )


def _collection(key: Key) -> Collection:
    return MISSIONS if key.table == MISSIONS.table else AGENTS
