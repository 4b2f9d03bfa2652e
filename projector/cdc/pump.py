"""Drives one session: socket → translator → publisher → confirmation, in one event loop.

The socket is read in its own callback, as much as has arrived; everything that has to be awaited happens in `run`,
which is woken by new records, acknowledgements and a slow clock. So a busy stream makes few trips through the loop.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

from projector import crash, freeze
from projector.cdc.heartbeat import Heartbeat
from projector.cdc.progress import Progress
from projector.cdc.publisher import Publisher
from projector.cdc.replication import Replication
from projector.cdc.translate import Translator
from projector.cdc.visibility import Snapshot, Visibility
from projector.cdc.wire import Keepalive
from projector.errors import ReplicationError
from projector.health.judge import Seen
from projector.health.parts import Part, Servers, at_work
from projector.logging import get
from projector.metrics import CDC_CONFIRMED_LSN, CDC_HELD, CDC_IN_FLIGHT

PUMP, STREAM, ACKNOWLEDGEMENTS = "cdc", "replication stream", "acknowledgements"
"""The parts of it that must move."""

STATUS_INTERVAL_S: Final = 10.0
"""At least so often Postgres is told how far we are, as a standby's wal_receiver_status_interval."""

PROMPT_INTERVAL_S: Final = 0.2
"""At most so often when there is something new to tell."""

DEFAULT_SENDER_TIMEOUT_S: Final = 60.0
MAX_IN_FLIGHT_BYTES: Final = 16 * 1024 * 1024

_TICK_S = 0.1
_IDLE_TICK_S = 0.5
_READ_BUDGET = 256 * 1024
_DRAIN_TIMEOUT_S = 5.0
_LOOK_AGAIN_S = 0.002, 0.1
_HELD_LONG_S = 5.0

log = get("cdc")


class Pump:
    """One replication session that has been started, and one producer.

    `wake` is set by whoever has something for `run` to do; `store_letters` writes dead letters; `look` asks the server
    what can be seen, because nothing is sent before its transaction can be (see `visibility`); `still_ours` asks the
    server whether this session holds the slot, and is awaited before sending when nothing has been heard for half of
    `sender_timeout` (seconds; 0 = the default): a process that was paused must not write what its successor wrote.
    """

    def __init__(
        self,
        replication: Replication,
        translator: Translator,
        publisher: Publisher,
        progress: Progress,
        heartbeat: Heartbeat,
        visibility: Visibility,
        wake: asyncio.Event,
        *,
        store_letters: Callable[[], Awaitable[None]],
        still_ours: Callable[[], Awaitable[bool]],
        look: Callable[[], Awaitable[Snapshot]],
        sender_timeout: float,
    ) -> None:
        self._replication = replication
        self._translator = translator
        self._publisher = publisher
        self._progress = progress
        self._heartbeat = heartbeat
        self._store_letters = store_letters
        self._still_ours = still_ours
        self._visibility = visibility
        self._look = look
        self._look_again: asyncio.TimerHandle | None = None
        self._held_since: float | None = None
        self._told_held = 0.0
        timeout = sender_timeout or DEFAULT_SENDER_TIMEOUT_S
        self._silence_s = timeout / 2
        self._status_interval_s = min(STATUS_INTERVAL_S, timeout / 6)
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self._ticker: asyncio.TimerHandle | None = None
        self._again: asyncio.TimerHandle | None = None
        # The descriptor being watched. A dead connection no longer tells its own, and it must not stay watched: the
        # next socket gets the same number.
        self._watched: int | None = None
        self._failure: BaseException | None = None
        self._heard = self._told = time.monotonic()
        self._told_flushed = progress.flushed
        self._reply_wanted = False
        self._reads = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; then what was read is acknowledged and confirmed, if that takes no longer than 5 s.

        Raises what ended the session: psycopg.OperationalError, aiokafka's KafkaError, a ProjectorError.
        """
        with (
            at_work(PUMP, lag_s=self._heartbeat.lag_s) as part,
            at_work(STREAM, self._stream),
            at_work(ACKNOWLEDGEMENTS, self._acknowledged),
        ):
            await self._run(stop, part)

    async def _run(self, stop: asyncio.Event, part: Part) -> None:
        self._read_on()
        # What came in one breath with the answer to START_REPLICATION was read with it, and wakes nobody. After an
        # error nothing else follows.
        self._readable()
        self._tick()
        stopping = asyncio.ensure_future(stop.wait())
        stopping.add_done_callback(lambda _: self._wake.set())
        try:
            while not stop.is_set():
                await self._wake.wait()
                self._wake.clear()
                part.moved()
                await freeze.point("cdc.step")
                await self._step()
            await self._drain()
        finally:
            stopping.cancel()
            self._pause()
            for timer in (self._ticker, self._again, self._look_again):
                if timer is not None:
                    timer.cancel()

    async def _stream(self, _servers: Servers) -> Seen | None:
        """The server must be heard while heartbeats are on their way: not of them, when others are before them."""
        if self._held_since is not None:
            return None
        return Seen((self._reads, self._publisher.acknowledged), self._heartbeat.is_awaited)

    async def _acknowledged(self, _servers: Servers) -> Seen | None:
        """That more is received says nothing here: nothing of it is safe before it is acknowledged."""
        if self._held_since is not None:
            return None
        return Seen((self._publisher.acknowledged, self._told_flushed), self._progress.outstanding)

    async def _step(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._publisher.failure is not None:
            raise self._publisher.failure
        if self._publisher.in_flight:
            crash.point("cdc.after_send_before_ack")
        if self._translator.letters:
            await self._store_letters()
        if self._publisher.ready:
            await self._send()
        if self._watched is None and self._publisher.octets < MAX_IN_FLIGHT_BYTES // 2:
            self._read_on()
        self._tell()
        again = await self._heartbeat.step(self._translator.committed_at)
        if again is not None and self._again is None:
            self._again = self._loop.call_later(again, self._ask_again)

    async def _send(self) -> None:
        """Sends what others can see. Nothing is read meanwhile: it would go along, younger than the answer."""
        reading = self._watched is not None
        self._pause()
        if await self._is_visible():
            await self._make_sure()
            await self._publisher.send()
        if reading and self._publisher.octets < MAX_IN_FLIGHT_BYTES:
            self._read_on()

    async def _drain(self) -> None:
        self._pause()
        deadline = time.monotonic() + _DRAIN_TIMEOUT_S
        while self._progress.outstanding and time.monotonic() < deadline:
            await self._step()
            self._pause()
            await self._wake.wait()
            self._wake.clear()
        self._confirm(reply_wanted=False)

    def _ask_again(self) -> None:
        self._again = None
        self._wake.set()

    # Reading

    def _read_on(self) -> None:
        if self._watched is None:
            self._watched = self._replication.fileno()
            self._loop.add_reader(self._watched, self._readable)

    def _pause(self) -> None:
        if self._watched is not None:
            self._loop.remove_reader(self._watched)
            self._watched = None

    def _readable(self) -> None:
        if freeze.is_at("cdc.read"):
            self._pause()
            return
        now = time.monotonic()
        self._reads += 1
        try:
            self._replication.receive(self._translator.feed, self._keepalive, _READ_BUDGET)
        except Exception as error:  # handed to `run`, which raises it
            self._failure = error
            self._pause()
        crash.point("cdc.after_receive")
        # After a long silence these bytes may have waited in the socket since before a pause of this process.
        if now - self._heard < self._silence_s:
            self._heard = now
        if self._publisher.octets >= MAX_IN_FLIGHT_BYTES:
            self._pause()
        self._wake.set()

    def _keepalive(self, keepalive: Keepalive) -> None:
        self._progress.idle_at(keepalive.wal_end)
        if keepalive.reply_wanted:
            self._reply_wanted = True

    async def _make_sure(self) -> None:
        """Asks the server whether we are still the reader, when it has not been heard for too long."""
        asked = time.monotonic()
        if asked - self._heard < self._silence_s:
            return
        if not await self._still_ours():
            raise ReplicationError("nothing heard from Postgres for too long, and the slot is no longer ours")
        self._heard = asked

    # Holding back

    async def _is_visible(self) -> bool:
        """Whether others can see all that was read; otherwise `run` will be woken to ask again."""
        if not self._visibility.unseen:
            return True
        if self._look_again is not None:
            return False
        self._visibility.see(await self._look())
        if not self._visibility.unseen:
            if self._held_since is not None:
                self._held_since = None
                self._observe_held()
            return True
        now = time.monotonic()
        if self._held_since is None:
            self._held_since = self._told_held = now
        least, most = _LOOK_AGAIN_S
        # Most are over in no time, and one that is not may take for ever.
        self._look_again = self._loop.call_later(min(max(least, now - self._held_since), most), self._ask_to_look)
        return False

    def _ask_to_look(self) -> None:
        self._look_again = None
        self._wake.set()

    def _observe_held(self) -> None:
        now = time.monotonic()
        CDC_HELD.set(0 if self._held_since is None else now - self._held_since)
        if self._held_since is not None and now - self._told_held >= _HELD_LONG_S:
            self._told_held = now
            log.warning(
                "waiting for a commit that nobody can see yet, as when a synchronous standby is away",
                seconds=round(now - self._held_since),
                transactions=self._visibility.unseen[:5],
            )

    # Confirming

    def _tick(self) -> None:
        busy = self._progress.outstanding or self._progress.flushed > self._told_flushed
        self._ticker = self._loop.call_later(_TICK_S if busy else _IDLE_TICK_S, self._tick)
        CDC_IN_FLIGHT.set(self._publisher.octets)
        self._observe_held()
        self._translator.observe()
        self._wake.set()

    def _tell(self) -> None:
        """Sends a status update when asked, when there is something new (not too often), or when it is time."""
        if self._replication.unflushed:
            self._replication.flush()
        since = time.monotonic() - self._told
        if self._reply_wanted or (since >= PROMPT_INTERVAL_S and self._progress.flushed > self._told_flushed):
            self._confirm(reply_wanted=False)
        elif since >= self._status_interval_s:
            # Asking for an answer tells us that the server is there, and where its log ends.
            self._confirm(reply_wanted=True)

    def _confirm(self, *, reply_wanted: bool) -> None:
        flushed = self._progress.flushed
        self._replication.confirm(self._progress.received, flushed, reply_wanted=reply_wanted)
        self._reply_wanted = False
        self._told = time.monotonic()
        if flushed > self._told_flushed:
            self._told_flushed = flushed
            CDC_CONFIRMED_LSN.set(flushed)
            crash.point("cdc.after_confirm")
