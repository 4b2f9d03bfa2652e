"""How a slot is: the WAL that it keeps, how long it can go on, and what holds it back, in words and with facts.

A slot keeps WAL from `restart` on. It moves when its reader confirms and the transactions that were open there have
ended; the server looks after that about every 15 s.
"""

from __future__ import annotations

import math
from typing import Any, Final, Literal, NamedTuple

import psycopg
from psycopg.rows import dict_row

from projector.sql import query

SILENT_S: Final = 30.0
"""A reader answers at least every 10 s; one that has not for so long is stopped, or cut off."""
UNCONFIRMED_S: Final = 10.0
"""A reader confirms at most 0.2 s after Kafka has acknowledged; the heartbeat alone gives it something each second."""
UNCONFIRMED_BYTES: Final = 64 * 1024
"""Less than that may be what the server writes about itself."""
OPEN_S: Final = 5.0
"""A transaction younger than this holds nothing back for which the slot would not wait anyway."""
BEHIND_BYTES: Final = 16 * 1024 * 1024
_SMOOTHING_S: Final = 30.0

Kind = Literal["invalidated", "inactive", "filling", "silent", "unconfirmed", "behind", "transaction"]


class Holder(NamedTuple):
    """One cause why the slot keeps WAL. `pid` is the server process to look at, when there is one."""

    kind: Kind
    what: str
    remedy: str
    pid: int | None = None


class Transaction(NamedTuple):
    """The oldest open transaction that writes, of any database. `gid` names a prepared one, which has no `pid`.

    `seconds` is its age; at least its age where `exact` is false, because the server hides it from this role.
    """

    xid: str
    pid: int | None
    gid: str | None
    user: str
    application: str
    database: str
    state: str
    seconds: float
    exact: bool


class Health(NamedTuple):
    """A slot at the moment `at`, Unix seconds by the database's clock, as are all instants here; LSNs are in bytes."""

    slot: str
    at: float
    lsn: int
    restart: int
    confirmed: int
    wal_status: str
    invalidation: str | None
    safe_bytes: int | None
    """How much more WAL may be written before the server takes the slot's away; None: no limit."""
    active_pid: int | None
    writer_pid: int | None
    """Who holds the writer's lock: the stream, which fills the topics out of the table before it reads the slot."""
    reader: str
    inactive_since: float | None
    idle_timeout: float
    """After so many seconds without a reader the server invalidates the slot; 0: never (and always before 18)."""
    transaction: Transaction | None
    rate: float | None
    """WAL written, bytes a second, smoothed over half a minute; None at the first look."""
    reply: str | None
    restart_since: float
    confirmed_since: float
    reply_since: float
    """Since when, as far as these looks go back, the three have not moved."""

    @property
    def retained_bytes(self) -> int:
        """WAL that the server keeps for the slot; 0 for one that has lost it."""
        return max(0, self.lsn - self.restart) if self.restart else 0

    @property
    def lag_bytes(self) -> int:
        """WAL written and not yet confirmed."""
        return max(0, self.lsn - self.confirmed) if self.confirmed else 0

    @property
    def lost(self) -> bool:
        return self.invalidation is not None or self.wal_status == "lost"

    @property
    def seconds_to_invalidation(self) -> float | None:
        """How long the slot lasts if it does not move and WAL is written on at this rate; None: no end in sight."""
        if self.lost:
            return 0.0
        left = []
        if self.safe_bytes is not None and self.rate:
            left.append(max(0, self.safe_bytes) / self.rate)
        if self.idle_timeout and self.inactive_since is not None:
            left.append(max(0.0, self.inactive_since + self.idle_timeout - self.at))
        return min(left, default=None)

    @property
    def holders(self) -> list[Holder]:
        """What holds the slot back, the first cause first; empty when it moves."""
        return _holders(self)


async def sample(conn: psycopg.AsyncConnection[Any], slot_name: str, previous: Health | None = None) -> Health | None:
    """Looks once, in one query; None when there is no such slot.

    `previous`, the look before this one, gives the rate and since when things have stood still. Without
    pg_read_all_stats the role sees who holds an open transaction, but neither its age nor its state.
    """
    async with conn.cursor(row_factory=dict_row) as cursor:
        row = await (await cursor.execute(query("cdc/guardian"), [slot_name])).fetchone()
    if row is None:
        return None
    at: float = row["at"]
    restart, confirmed, active_pid = row["restart"] or 0, row["confirmed"] or 0, row["active_pid"]
    inactive_since = row["inactive_since"]
    if active_pid is None and inactive_since is None and previous is not None:
        # Servers before 17 do not tell: since we saw it so.
        inactive_since = (previous.inactive_since or previous.at) if previous.active_pid is None else at
    same = previous if previous is not None and previous.slot == slot_name else None
    return Health(
        slot=slot_name,
        at=at,
        lsn=row["lsn"],
        restart=restart,
        confirmed=confirmed,
        wal_status=row["wal_status"],
        invalidation=row["invalidation"] or ("wal_removed" if row["wal_status"] == "lost" else None),
        safe_bytes=row["safe_bytes"],
        active_pid=active_pid,
        writer_pid=row["writer_pid"],
        reader=_named(row["reader_application"], row["reader_user"]),
        inactive_since=inactive_since if active_pid is None else None,
        idle_timeout=row["idle_timeout"],
        transaction=_transaction(row, same),
        rate=_rate(row["lsn"], at, same),
        reply=row["reply"],
        restart_since=same.restart_since if same and same.restart == restart else at,
        confirmed_since=(
            same.confirmed_since
            if same and same.confirmed == confirmed and same.active_pid == active_pid and same.lag_bytes
            else at
        ),
        reply_since=same.reply_since if same and same.reply == row["reply"] and same.active_pid == active_pid else at,
    )


def _rate(lsn: int, at: float, previous: Health | None) -> float | None:
    if previous is None or at <= previous.at:
        return None if previous is None else previous.rate
    seconds = at - previous.at
    now = max(0, lsn - previous.lsn) / seconds
    if previous.rate is None:
        return now
    return previous.rate + (now - previous.rate) * (1 - math.exp(-seconds / _SMOOTHING_S))


def _transaction(row: dict[str, Any], previous: Health | None) -> Transaction | None:
    xid = row["holder_xid"]
    if xid is None:
        return None
    seconds = row["holder_seconds"]
    known = previous.transaction if previous is not None else None
    if seconds is None and known is not None and previous is not None and known.xid == xid:
        since_then = row["at"] - previous.at
        seconds, exact = known.seconds + since_then, False
    else:
        seconds, exact = seconds or 0.0, seconds is not None
    return Transaction(
        xid,
        row["holder_pid"],
        row["holder_gid"],
        row["holder_user"] or "",
        row["holder_application"] or "",
        row["holder_database"] or "",
        row["holder_state"] or "",
        seconds,
        exact,
    )


def _holders(health: Health) -> list[Holder]:
    if health.lost:
        return [
            Holder(
                "invalidated",
                f"the server has invalidated the slot ({health.invalidation})",
                "start `projector run cdc`: it makes a new slot and publishes the gap out of the table",
            )
        ]
    found = []
    if health.active_pid is None:
        found.append(_inactive(health))
    elif (reader := _reader(health)) is not None:
        found.append(reader)
    if health.transaction is not None and (holder := _open(health.transaction)) is not None:
        found.append(holder)
    return found


def _inactive(health: Health) -> Holder:
    since = "" if health.inactive_since is None else f", for {duration(health.at - health.inactive_since)} now"
    if health.writer_pid is not None:
        return Holder(
            "filling",
            f"the stream (pid {health.writer_pid}) publishes rows out of the table before it reads the slot{since}",
            "`projector status` shows its progress; raise max_slot_wal_keep_size if it would not be done in time",
            health.writer_pid,
        )
    return Holder(
        "inactive",
        f"nobody reads the slot{since}",
        "start `projector run cdc`; `projector slot drop --yes` if the stream is not to go on",
    )


def _reader(health: Health) -> Holder | None:
    pid, who = health.active_pid, f"the reader {health.reader}(pid {health.active_pid})"
    silent = health.at - health.reply_since
    if health.reply is not None and silent >= SILENT_S:
        return Holder(
            "silent",
            f"{who} has not answered for {duration(silent)}",
            f"look at the process of `projector run cdc`, or end its session: select pg_terminate_backend({pid})",
            pid,
        )
    still = health.at - health.confirmed_since
    if health.lag_bytes >= UNCONFIRMED_BYTES and still >= UNCONFIRMED_S:
        return Holder(
            "unconfirmed",
            f"{who} has confirmed nothing for {duration(still)}: Kafka does not acknowledge, or it cannot go on",
            "look at the log of `projector run cdc` and at the brokers; `projector doctor` tries them",
            pid,
        )
    if health.lag_bytes >= BEHIND_BYTES and 2 * health.lag_bytes >= health.retained_bytes:
        return Holder(
            "behind",
            f"{who} is {size(health.lag_bytes)} behind",
            "`projector status` shows whether it catches up; if not, look at the log of `projector run cdc`",
            pid,
        )
    return None


def _open(transaction: Transaction) -> Holder | None:
    if transaction.exact and transaction.seconds < OPEN_S:
        return None
    age = duration(transaction.seconds)
    if not transaction.exact:
        age = f"at least {age} (grant pg_read_all_stats to projector_cdc to see its age)"
    owner = f"by {_named(transaction.application, transaction.user)}in database {transaction.database}"
    if transaction.pid is None:
        return Holder(
            "transaction",
            f"transaction {transaction.xid}, prepared as {transaction.gid!r} {owner}, has been open for {age}",
            f"in database {transaction.database}: commit prepared or rollback prepared '{transaction.gid}'",
        )
    state = f", {transaction.state}" if transaction.state else ""
    return Holder(
        "transaction",
        f"transaction {transaction.xid} of pid {transaction.pid} {owner}{state}, has been open for {age}",
        f"let it end, or end it: select pg_terminate_backend({transaction.pid})",
        transaction.pid,
    )


def _named(application: str | None, user: str | None) -> str:
    """`application as user `, as far as they are known, with a space behind."""
    words = [application or "", f"as {user}" if application and user else user or ""]
    return "".join(f"{word} " for word in words if word)


def duration(seconds: float) -> str:
    """`7 s`, `12 min`, `3.5 h`, `2.1 days`."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} days"


def size(octets: float) -> str:
    """`512 B`, `12.0 MiB`, `3.4 GiB`."""
    if octets < 1024:
        return f"{octets:.0f} B"
    power = min(int(math.log(octets, 1024)), 4)
    return f"{octets / 1024**power:.1f} {'KMGT'[power - 1]}iB"
