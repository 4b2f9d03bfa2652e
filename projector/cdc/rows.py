"""Rows of `sync_changes` as JSON values of Kafka records, without decoding what is JSON already.

For each Relation message one function is generated and compiled: every column of that relation unrolled, one
template for the value, texts searched once for anything to escape, jsonb and integers spliced in as Postgres
printed them. A generic loop over columns costs about three times as much.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn, TypeAlias

from projector.cdc.instant_text import iso_instant
from projector.cdc.json_text import SPECIAL, escape, needs_escape
from projector.cdc.pgoutput import Column, MalformedMessage, Missing, Relation, Value, parse
from projector.errors import TableShapeError
from projector.log.change import ERASED

Row: TypeAlias = tuple[bytes, bytes, bytes, bytes, bytes, bytes]
"""What a record of a change needs: user id, app id, table, op, change id (as they are, UTF-8), and the value.

A plain tuple, for making a named one costs as much as writing three columns.
"""

IDENTITY: Final = ("id", "app_id", "table_name", "record_id", "user_id")
"""The columns of the replica identity, and of the record of an erased row."""

_JSON_OIDS = frozenset((114, 3802))
_INTEGER_OIDS = frozenset((20, 21, 23, 26))
_TEXT_OIDS = frozenset((25, 1042, 1043, 2950))
_TIMESTAMPTZ_OID = 1184
_BOOL_OID = 16

# The value's keys in order: what the column must be, and whether it may be NULL.
_COLUMNS: Final = {
    "id": ("text", False),
    "app_id": ("text", False),
    "table_name": ("text", False),
    "record_id": ("text", False),
    "user_id": ("text", False),
    "op": ("text", False),
    "data": ("json", True),
    "field_meta": ("json", True),
    "client_id": ("text", False),
    "created_at": ("instant", False),
    "schema_version": ("integer", False),
    "actor": ("json", True),
    "origin": ("text", True),
    "space_id": ("text", True),
}
# Databases that predate the rename of this column keep its old name.
_FORMER_NAMES: Final = {"field_meta": "field_timestamps"}

_I32: Final = struct.Struct(">i").unpack_from
_KIND_AND_LENGTH: Final = struct.Struct(">Bi").unpack_from
_INSERT_HEADER: Final = 8  # 'I', relation id int32, 'N', column count int16


class RowCodec:
    """Turns the rows of one relation, as that relation is shaped now, into records.

    Raises TableShapeError when a column that the record needs is missing or of another type. Columns that the
    record does not know are added after the known ones, under their own names.
    """

    def __init__(self, relation: Relation) -> None:
        self.relation = relation
        positions = {column.name: index for index, column in enumerate(relation.columns)}
        fields = _fields(relation, positions)
        self._identity = [(name, fields[name].at) for name in IDENTITY]
        self.insert: Callable[[bytes], Row] = _compile(relation, fields)
        """Encodes a whole Insert message of this relation; raises MalformedMessage or TableShapeError."""

    def erased(self, values: tuple[Value, ...]) -> Row:
        """The record that tells of a row taken out of the log: its identity, and nothing of its content.

        Raises TableShapeError when the replica identity does not carry all of it.
        """
        found = {}
        for name, index in self._identity:
            value = values[index]
            if value is None or isinstance(value, Missing):
                raise TableShapeError(
                    f"a deleted row of {self.relation.name} came without {name}",
                    "run `projector migrate`: it sets the replica identity",
                )
            found[name] = value
        return erased_row(found)


def erased_row(identity: Mapping[str, bytes]) -> Row:
    """The record that says that the row with this identity, by column, is no longer in the log."""
    body = b",".join(b'"%b":"%b"' % (name.encode(), escape(identity[name])) for name in IDENTITY)
    return (
        identity["user_id"],
        identity["app_id"],
        identity["table_name"],
        ERASED.encode(),
        identity["id"],
        b'{%b,"op":"%b"}' % (body, ERASED.encode()),
    )


class _Field(NamedTuple):
    at: int
    kind: str
    nullable: bool


def _fields(relation: Relation, positions: dict[str, int]) -> dict[str, _Field]:
    """JSON key → where its column is and how it is written, in the order of the value's keys."""
    fields = {}
    used = set()
    for name, (kind, nullable) in _COLUMNS.items():
        column_name = name if name in positions else _FORMER_NAMES.get(name, name)
        index = positions.get(column_name)
        if index is None:
            raise TableShapeError(f"{relation.namespace}.{relation.name} has no column {name}")
        column = relation.columns[index]
        found = _kind(column)
        if found != kind:
            raise TableShapeError(
                f"{relation.namespace}.{relation.name}.{name} holds {found} where {kind} belongs"
                f" (type oid {column.type_oid})"
            )
        used.add(index)
        fields[name] = _Field(index, kind, nullable)
    for index, column in enumerate(relation.columns):
        if index not in used:
            fields[column.name] = _Field(index, _kind(column), True)
    return fields


def _kind(column: Column) -> str:
    oid = column.type_oid
    if oid in _JSON_OIDS:
        return "json"
    if oid in _INTEGER_OIDS:
        return "integer"
    if oid == _TIMESTAMPTZ_OID:
        return "instant"
    if oid == _BOOL_OID:
        return "boolean"
    # Any other type of a column we do not know is carried as the text that Postgres prints.
    return "text" if oid in _TEXT_OIDS or column.name not in _COLUMNS else "another type"


def _compile(relation: Relation, fields: dict[str, _Field]) -> Callable[[bytes], Row]:
    """Generates the Insert decoder of one relation. Only column numbers and kinds enter the source."""
    nullable = {field.at: field for field in fields.values() if field.nullable}
    required = {field.at: field for field in fields.values() if not field.nullable}
    lines = [
        "def insert(m):",
        " try:",
        "  if m[5:8] != header: explain(m)",
        f"  p = {_INSERT_HEADER}",
    ]
    for index in range(len(relation.columns)):
        name = f"c{index}"
        if index in nullable:
            lines += [
                "  if m[p] == 116:",
                f"   q = p + 5 + i32(m, p + 1)[0]; {name} = m[p + 5 : q]; p = q",
            ]
            lines += _quoted(name, nullable[index].kind)
            lines += [f"  elif m[p] == 110: {name} = b'null'; p += 1"]
            lines += ["  else: explain(m)"]
        else:
            # Kind and length in one call: a value that must be there has both.
            lines += [f"  k, n = head(m, p); p += 5; q = p + n; {name} = m[p:q]; p = q"]
            lines += ["  if k != 116: explain(m)"]
    lines += ["  if p != len(m): explain(m)"]
    for index, field in required.items():
        if field.kind == "instant":
            lines += [
                f"  t = c{index}",
                f"  c{index} = b'%bT%bZ' % (t[:10], t[11:26])"
                " if len(t) == 29 and t[10] == 32 and t[26:] == b'+00' else iso(t)",
            ]
    texts = [f"c{index}" for index, field in required.items() if field.kind == "text"]
    columns = [f"c{field.at}" for field in fields.values()]
    escaped = [f"escape({name})" if name in texts else name for name in columns]
    found = f"c{fields['user_id'].at}, c{fields['app_id'].at}, c{fields['table_name'].at},"
    found += f" c{fields['op'].at}, c{fields['id'].at}"
    lines += [
        f"  t = {b'%b' * len(texts)!r} % ({', '.join(texts)})",
        "  if len(t.translate(None, special)) != len(t):",
        f"   return {found}, template % ({', '.join(escaped)})",
        f"  return {found}, template % ({', '.join(columns)})",
        " except (IndexError, error): explain(m)",
    ]
    namespace: dict[str, object] = {
        "error": struct.error,
        "escape": escape,
        "explain": _explain,
        "head": _KIND_AND_LENGTH,
        "header": b"N" + len(relation.columns).to_bytes(2, "big"),
        "i32": _I32,
        "iso": iso_instant,
        "needs_escape": needs_escape,
        "special": SPECIAL,
        "template": _template(fields),
    }
    exec(compile("\n".join(lines), f"<rows of {relation.name}>", "exec"), namespace)  # noqa: S102 - see above
    insert: Callable[[bytes], Row] = namespace["insert"]  # type: ignore[assignment]
    return insert


def _quoted(name: str, kind: str) -> list[str]:
    """Lines that turn a nullable column's text into a JSON value."""
    if kind == "text":
        return [f"   {name} = b'\"%b\"' % (escape({name}) if needs_escape({name}) else {name})"]
    if kind == "instant":
        return [f"   {name} = b'\"%b\"' % iso({name})"]
    if kind == "boolean":
        return [f"   {name} = b'true' if {name} == b't' else b'false'"]
    return []


def _template(fields: dict[str, _Field]) -> bytes:
    parts = []
    for name, field in fields.items():
        quoted = not field.nullable and field.kind in ("text", "instant")
        key = escape(name.encode()).replace(b"%", b"%%")
        parts.append(b'"%b":"%%b"' % key if quoted else b'"%b":%%b' % key)
    return b"{" + b",".join(parts) + b"}"


def _explain(message: bytes) -> NoReturn:
    """Says what is wrong with a message that the compiled decoder gave up on."""
    parsed = parse(message)  # raises when the message itself is malformed
    new = getattr(parsed, "new", ())
    if Missing.UNCHANGED_TOAST in new:
        raise MalformedMessage("an inserted row holds an unchanged value", 0)
    nulls = [index for index, value in enumerate(new) if value is None]
    raise TableShapeError(f"an inserted row of {len(new)} columns does not fit its relation (NULL in columns {nulls})")
