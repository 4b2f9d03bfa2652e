"""Sans-IO parser for the messages of PostgreSQL's `pgoutput` plugin, protocol version 1.

Source of the format: PostgreSQL documentation, "Logical Replication Message Formats". All integers are
big-endian; strings end with a NUL byte; column values arrive in the text format. Nothing here reads a socket
or knows what a row means: `parse` takes one whole message (the payload of one XLogData) and returns one value.

Instants are microseconds since 2000-01-01 UTC, as Postgres sends them. LSNs are plain integers.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final, NamedTuple, TypeAlias


class MalformedMessage(ValueError):
    """The bytes are no pgoutput message of protocol version 1.

    `offset` is where in the message the parser stopped understanding it.
    """

    def __init__(self, reason: str, offset: int) -> None:
        super().__init__(f"{reason} at offset {offset}")
        self.offset = offset


class Missing(Enum):
    """Why a column carries no value although it is not NULL."""

    UNCHANGED_TOAST = "unchanged"
    """A large value stored out of line that this update did not touch; Postgres does not send it again."""


Value: TypeAlias = bytes | Missing | None
"""One column: text-format bytes, None for SQL NULL, or the marker of a value that was not sent."""


class Column(NamedTuple):
    name: str
    type_oid: int
    type_modifier: int
    in_key: bool


class Begin(NamedTuple):
    """Start of a committed transaction. `commit_lsn` is the LSN of its commit record."""

    commit_lsn: int
    commit_time: int
    xid: int


class Commit(NamedTuple):
    """End of a transaction. `end_lsn` is the first LSN after it, the one to confirm."""

    commit_lsn: int
    end_lsn: int
    commit_time: int


class Origin(NamedTuple):
    commit_lsn: int
    name: str


class Relation(NamedTuple):
    """A table's shape, sent before its first row and again after every change of it."""

    id: int
    namespace: str
    name: str
    replica_identity: str
    columns: tuple[Column, ...]


class Type(NamedTuple):
    id: int
    namespace: str
    name: str


class Insert(NamedTuple):
    relation_id: int
    new: tuple[Value, ...]


class Update(NamedTuple):
    """`old` is present when the identity changed (`key_only`) or under REPLICA IDENTITY FULL."""

    relation_id: int
    old: tuple[Value, ...] | None
    key_only: bool
    new: tuple[Value, ...]


class Delete(NamedTuple):
    """`old` has every column; those outside the identity are None when `key_only`."""

    relation_id: int
    old: tuple[Value, ...]
    key_only: bool


class Truncate(NamedTuple):
    relation_ids: tuple[int, ...]
    cascade: bool
    restart_identity: bool


class LogicalMessage(NamedTuple):
    """What `pg_logical_emit_message` wrote. A transactional one arrives between Begin and Commit."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


Message: TypeAlias = Begin | Commit | Origin | Relation | Type | Insert | Update | Delete | Truncate | LogicalMessage

_BEGIN = struct.Struct(">xqqI")
_COMMIT = struct.Struct(">xBqqq")
_I16 = struct.Struct(">h")
_I32 = struct.Struct(">i")
_U32 = struct.Struct(">I")
_I64 = struct.Struct(">q")

_IDENTITIES: Final = frozenset("dnfi")


def parse(message: bytes) -> Message:
    """Parse one whole message.

    Raises MalformedMessage when it is cut short, has bytes left over, or is of a type that protocol version 1
    does not have.
    """
    if not message:
        raise MalformedMessage("empty message", 0)
    kind = message[0]
    if kind == 66:  # B
        return parse_begin(message)
    if kind == 67:  # C
        return parse_commit(message)
    reader = _Reader(message)
    parsed: Message
    if kind == 73:  # I
        parsed = _insert(reader)
    elif kind == 85:  # U
        parsed = _update(reader)
    elif kind == 68:  # D
        parsed = _delete(reader)
    elif kind == 77:  # M
        parsed = _logical_message(reader)
    elif kind == 82:  # R
        parsed = _relation(reader)
    elif kind == 84:  # T
        parsed = _truncate(reader)
    elif kind == 89:  # Y
        parsed = Type(reader.u32(), reader.string(), reader.string())
    elif kind == 79:  # O
        parsed = Origin(reader.i64(), reader.string())
    else:
        raise MalformedMessage(f"unknown message type {chr(kind)!r}", 0)
    if reader.at != len(message):
        raise MalformedMessage(f"{len(message) - reader.at} bytes left over after {chr(kind)!r}", reader.at)
    return parsed


def parse_begin(message: bytes) -> Begin:
    """Parse a `B` message; the caller has looked at its first byte."""
    if len(message) != _BEGIN.size:
        raise MalformedMessage(f"Begin of {len(message)} bytes instead of {_BEGIN.size}", 0)
    return Begin(*_BEGIN.unpack(message))


def parse_commit(message: bytes) -> Commit:
    """Parse a `C` message; the caller has looked at its first byte."""
    if len(message) != _COMMIT.size:
        raise MalformedMessage(f"Commit of {len(message)} bytes instead of {_COMMIT.size}", 0)
    return Commit(*_COMMIT.unpack(message)[1:])


class _Reader:
    """A cursor that turns every step past the end into a MalformedMessage with its offset."""

    __slots__ = ("at", "buf")

    def __init__(self, buf: bytes) -> None:
        self.buf = buf
        self.at = 1

    def _take(self, layout: struct.Struct) -> int:
        at = self.at
        if at + layout.size > len(self.buf):
            raise MalformedMessage(f"message cut short, {layout.size} bytes wanted", at)
        self.at = at + layout.size
        value: int = layout.unpack_from(self.buf, at)[0]
        return value

    def u8(self) -> int:
        if self.at >= len(self.buf):
            raise MalformedMessage("message cut short, 1 byte wanted", self.at)
        self.at += 1
        return self.buf[self.at - 1]

    def count(self, layout: struct.Struct) -> int:
        at = self.at
        value = self._take(layout)
        if value < 0:
            raise MalformedMessage(f"negative count {value}", at)
        return value

    def i16_count(self) -> int:
        return self.count(_I16)

    def i32_count(self) -> int:
        return self.count(_I32)

    def i32(self) -> int:
        return self._take(_I32)

    def u32(self) -> int:
        return self._take(_U32)

    def i64(self) -> int:
        return self._take(_I64)

    def octets(self, length: int) -> bytes:
        at = self.at
        if at + length > len(self.buf):
            raise MalformedMessage(f"message cut short, {length} bytes wanted", at)
        self.at = at + length
        return self.buf[at : self.at]

    def string(self) -> str:
        at = self.at
        end = self.buf.find(b"\0", at)
        if end < 0:
            raise MalformedMessage("string without its end", at)
        self.at = end + 1
        try:
            return self.buf[at:end].decode()
        except UnicodeDecodeError as error:
            raise MalformedMessage("string is not UTF-8", at + error.start) from error

    def tag(self, allowed: str) -> str:
        at = self.at
        tag = chr(self.u8())
        if tag not in allowed:
            raise MalformedMessage(f"{tag!r} where one of {allowed!r} belongs", at)
        return tag

    def tuple(self) -> tuple[Value, ...]:
        values: list[Value] = []
        for _ in range(self.i16_count()):
            kind = self.tag("tnu")
            if kind == "t":
                values.append(self.octets(self.i32_count()))
            else:
                values.append(None if kind == "n" else Missing.UNCHANGED_TOAST)
        return tuple(values)


def _insert(reader: _Reader) -> Insert:
    relation_id = reader.u32()
    reader.tag("N")
    return Insert(relation_id, reader.tuple())


def _update(reader: _Reader) -> Update:
    relation_id = reader.u32()
    tag = reader.tag("KON")
    if tag == "N":
        return Update(relation_id, None, False, reader.tuple())
    old = reader.tuple()
    reader.tag("N")
    return Update(relation_id, old, tag == "K", reader.tuple())


def _delete(reader: _Reader) -> Delete:
    relation_id = reader.u32()
    tag = reader.tag("KO")
    return Delete(relation_id, reader.tuple(), tag == "K")


def _truncate(reader: _Reader) -> Truncate:
    count = reader.i32_count()
    options = reader.u8()
    return Truncate(tuple(reader.u32() for _ in range(count)), bool(options & 1), bool(options & 2))


def _logical_message(reader: _Reader) -> LogicalMessage:
    flags = reader.u8()
    lsn = reader.i64()
    prefix = reader.string()
    return LogicalMessage(bool(flags & 1), lsn, prefix, reader.octets(reader.i32_count()))


def _relation(reader: _Reader) -> Relation:
    relation_id = reader.u32()
    # pg_catalog is sent as an empty string.
    namespace = reader.string() or "pg_catalog"
    name = reader.string()
    at = reader.at
    identity = chr(reader.u8())
    if identity not in _IDENTITIES:
        raise MalformedMessage(f"unknown replica identity {identity!r}", at)
    columns = []
    for _ in range(reader.i16_count()):
        in_key = bool(reader.u8() & 1)
        columns.append(Column(reader.string(), reader.u32(), reader.i32(), in_key))
    return Relation(relation_id, namespace, name, identity, tuple(columns))
