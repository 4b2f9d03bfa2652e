"""From pgoutput messages to records: follows the transactions and gives each record its place and its headers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from projector import crash
from projector.cdc import commands, dead_letters
from projector.cdc.dead_letters import DeadLetter
from projector.cdc.heartbeat import PREFIX as HEARTBEAT
from projector.cdc.heartbeat import Heartbeat
from projector.cdc.pgoutput import (
    Begin,
    Commit,
    Delete,
    LogicalMessage,
    MalformedMessage,
    Relation,
    Truncate,
    Update,
    parse,
    parse_begin,
    parse_commit,
)
from projector.cdc.progress import Progress
from projector.cdc.publisher import Headers, Lane, Publisher, record_size
from projector.cdc.rows import Row, RowCodec
from projector.cdc.visibility import Visibility
from projector.errors import MalformedMessageError
from projector.log.change import TRUNCATED
from projector.log.clock import POSTGRES_EPOCH_US
from projector.log.place import Place, lsn_text
from projector.log.topics import Topics
from projector.logging import get
from projector.metrics import CDC_COMMIT_TIME, CDC_DEAD_LETTERS, CDC_IGNORED

TABLE: Final = "sync_changes"

# A value this far below the limit cannot exceed it with its key and headers; names are not that long.
_MARGIN = 16 * 1024

# Most transactions are small, and a header costs more to make than to look up.
_KNOWN_ORDINALS = 256
_ORDINALS: Final = [("ord", b"%d" % ordinal) for ordinal in range(_KNOWN_ORDINALS)]

log = get("cdc")


class Translator:
    """Feeds a publisher with the records of the messages it is given, in order.

    `apps` holds the LSN from which on the stream brings each app: what committed before came out of the table.

    The ordinal of a record counts every row and message of its transaction, also those that no topic takes, so
    that it is the same whenever the transaction is read again, whatever the settings are by then.
    """

    def __init__(
        self,
        publisher: Publisher,
        progress: Progress,
        topics: Topics,
        apps: Mapping[str, int],
        source: int,
        max_record_bytes: int,
        heartbeat: Heartbeat,
        visibility: Visibility,
    ) -> None:
        self._publisher = publisher
        self._progress = progress
        self._source = source
        self._max_record_bytes = max_record_bytes
        self._heartbeat = heartbeat
        self._visibility = visibility
        self._changes = {app.encode(): (*self._route(topics.changes(app)), since) for app, since in apps.items()}
        self._commands = {
            commands.DUE: self._route(topics.due),
            commands.ITERATIONS: self._route(topics.iterations),
        }
        # By the four bytes of the relation id as they come; None for a table that is not the log.
        self._codecs: dict[bytes, RowCodec | None] = {}
        self._begin: Begin | None = None
        self._tells: Begin | None = None
        self._ord = 0
        self.committed_at = 0
        """Commit time of the newest transaction read whole, µs since 1970."""
        self._committed_us = 0
        self._timestamp_ms = 0
        self._source_header = ("source", b"%d" % source)
        self._lsn_header = ("lsn", b"")
        self._xid_header = ("xid", b"")
        self._ts_header = ("ts", b"")
        self.letters: list[tuple[DeadLetter, int]] = []
        """Dead letters to be stored, each with the hold that keeps its transaction unconfirmed until then."""

    def _route(self, topic: str) -> tuple[str, dict[bytes, Lane]]:
        return topic, self._publisher.lanes(topic)

    def feed(self, message: bytes) -> None:
        """Takes one pgoutput message.

        Raises MalformedMessageError naming the commit LSN of the transaction, or TableShapeError.
        """
        try:
            kind = message[0]
            if kind == 73:  # I
                try:
                    codec = self._codecs[message[1:5]]
                except KeyError:
                    raise MalformedMessage("a row of a relation that was not described", 1) from None
                if codec is None:
                    self._skip("foreign_table")
                else:
                    self._publish_row(codec.insert(message))
            elif kind == 66:  # B
                self._open(parse_begin(message))
            elif kind == 67:  # C
                self._close(parse_commit(message))
            else:
                self._other(message)
        except (MalformedMessage, IndexError) as error:
            at = lsn_text(self._begin.commit_lsn) if self._begin else "the beginning of a transaction"
            raise MalformedMessageError(f"malformed message at {at}: {error}") from error

    def _open(self, begin: Begin) -> None:
        self._begin = begin
        self._ord = 0
        self._progress.begin()
        committed_us = begin.commit_time + POSTGRES_EPOCH_US
        self._committed_us = committed_us
        self._timestamp_ms = committed_us // 1000
        self._lsn_header = ("lsn", lsn_text(begin.commit_lsn).encode())
        self._xid_header = ("xid", b"%d" % begin.xid)
        self._ts_header = ("ts", b"%d" % committed_us)

    def _close(self, commit: Commit) -> None:
        if self._begin is None or self._begin.commit_lsn != commit.commit_lsn:
            raise MalformedMessage("a Commit that no Begin announced", 0)
        self._begin = None
        self.committed_at = self._committed_us
        self._progress.commit(commit.end_lsn)
        self._heartbeat.ended(commit.end_lsn)

    def observe(self) -> None:
        """Sets the metrics that would cost too much for every transaction."""
        if self._timestamp_ms:
            CDC_COMMIT_TIME.set(self._timestamp_ms / 1000)

    def _publish_row(self, row: Row) -> None:
        begin = self._begin
        if begin is None:
            raise MalformedMessage("a row outside a transaction", 0)
        user_id, app_id, table, op, change_id, value = row
        route = self._changes.get(app_id)
        if route is None:
            self._skip("other_app")
            return
        topic, lanes, since = route
        if begin.commit_lsn < since:
            self._skip("filled")
            return
        if begin is not self._tells:
            self._telling(begin)
        publisher = self._publisher
        ordinal = self._ord
        self._ord = ordinal + 1
        headers = [
            self._source_header,
            self._lsn_header,
            _ORDINALS[ordinal] if ordinal < _KNOWN_ORDINALS else ("ord", b"%d" % ordinal),
            self._xid_header,
            self._ts_header,
            ("op", op),
            ("table", table),
            ("id", change_id),
        ]
        if len(value) + len(user_id) > self._max_record_bytes - _MARGIN:
            size = record_size(user_id, value, headers)
            if size > self._max_record_bytes:
                self._too_large(topic, Place(self._source, begin.commit_lsn, ordinal), row, size)
                return
        lane = lanes.get(user_id) or publisher.find_lane(topic, user_id)
        publisher.append(lane, (begin.commit_lsn, ordinal), self._timestamp_ms, user_id, value, headers)
        if ordinal:
            crash.point("cdc.mid_transaction")

    def _other(self, message: bytes) -> None:
        parsed = parse(message)
        if isinstance(parsed, Relation):
            self._codecs[message[1:5]] = RowCodec(parsed) if parsed.name == TABLE else None
        elif isinstance(parsed, LogicalMessage):
            self._command(parsed)
        elif isinstance(parsed, Delete):
            codec = self._codec(parsed.relation_id)
            if codec is not None:
                self._publish_row(codec.erased(parsed.old))
        elif isinstance(parsed, Update):
            # The log is never updated. Should it be, its record must be folded anew from the table.
            codec = self._codec(parsed.relation_id)
            if codec is not None:
                self._publish_row(codec.erased(parsed.new))
        elif isinstance(parsed, Truncate) and any(map(self._codec, parsed.relation_ids)):
            self._truncated()
        # Type and Origin say nothing about a row.

    def _codec(self, relation_id: int) -> RowCodec | None:
        codec = self._codecs.get(relation_id.to_bytes(4, "big"))
        if codec is None:
            self._skip("foreign_table")
        return codec

    def _skip(self, kind: str) -> None:
        self._ord += 1
        CDC_IGNORED.labels(kind).inc()

    def _command(self, message: LogicalMessage) -> None:
        if message.prefix == HEARTBEAT and message.transactional:
            self._ord += 1
            self._heartbeat.heard(message.content)
            return
        route = self._commands.get(message.prefix)
        if not message.transactional:
            CDC_IGNORED.labels("message").inc()
            return
        begin = self._begin
        if begin is None:
            raise MalformedMessage("a transactional message outside a transaction", 0)
        if route is None:
            self._skip("message")
            return
        try:
            _, user_id = commands.parse(message.content)
        except commands.BadCommand as error:
            self._skip("bad_message")
            log.warning("logical message ignored", prefix=message.prefix, lsn=lsn_text(message.lsn), reason=str(error))
            return
        key = user_id.encode()
        ordinal, headers = self._next(begin, b"message")
        topic, lanes = route
        publisher = self._publisher
        lane = lanes.get(key) or publisher.find_lane(topic, key)
        place = (begin.commit_lsn, ordinal)
        publisher.append(lane, place, self._timestamp_ms, key, message.content, headers)

    def _telling(self, begin: Begin) -> None:
        """A record is about to tell of this transaction. Most of a busy server's have none, and need not be seen."""
        self._tells = begin
        self._visibility.read(begin.xid)

    def _next(self, begin: Begin, op: bytes) -> tuple[int, Headers]:
        """The ordinal and the headers of the next record; rows, of which there are many, make their own."""
        if begin is not self._tells:
            self._telling(begin)
        ordinal = self._ord
        self._ord = ordinal + 1
        return ordinal, [
            self._source_header,
            self._lsn_header,
            ("ord", b"%d" % ordinal),
            self._xid_header,
            self._ts_header,
            ("op", op),
        ]

    def _truncated(self) -> None:
        """Tells every partition: what committed before is gone from the log."""
        begin = self._begin
        if begin is None:
            raise MalformedMessage("a truncation outside a transaction", 0)
        ordinal, headers = self._next(begin, TRUNCATED.encode())
        value = b'{"op":"%b"}' % TRUNCATED.encode()
        for topic, _, since in self._changes.values():
            if begin.commit_lsn >= since:
                for lane in self._publisher.every_lane(topic):
                    self._publisher.append(lane, (begin.commit_lsn, ordinal), self._timestamp_ms, None, value, headers)
        log.warning("sync_changes was truncated", lsn=lsn_text(begin.commit_lsn))

    def _too_large(self, topic: str, place: Place, row: Row, size: int) -> None:
        user_id, change_id = row[0].decode(), row[4].decode()
        letter = DeadLetter(*place, topic, change_id, user_id, size, dead_letters.TOO_LARGE)
        self.letters.append((letter, self._progress.hold()))
        CDC_DEAD_LETTERS.labels(dead_letters.TOO_LARGE).inc()
        log.warning("record too large for its topic", id=change_id, place=str(place), bytes=size)
