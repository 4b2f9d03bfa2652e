"""Folds a view anew into its spare generation while the serving one goes on, and lets the one take the other's place.

What is spare may be filled, compared and emptied at any time: readers and the live view never see it. A promotion is
one small transaction, and the generation that served before can be promoted back.
"""

from __future__ import annotations

import asyncio
import os
from asyncio import TaskGroup
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition

from projector import crash
from projector.config import Settings
from projector.errors import DifferencesError, NothingRebuiltError, NotReachedError, ProjectorError, SpareInUseError
from projector.fold import FOLD_VERSION
from projector.log.place import Place, parse_lsn
from projector.logging import get
from projector.sql import query
from projector.sql.connection import connect
from projector.views import generations, kafka
from projector.views.declared import VIEWS, View
from projector.views.fill_worker import fill_in_process
from projector.views.filler import Filler
from projector.views.from_log import fill_from_log
from projector.views.generation_diff import ViewDifference, compare
from projector.views.generations import EMPTY, FAILED, FILLING, PREVIOUS, READY, Generations
from projector.views.positions import Partition, Positions, widths_of
from projector.views.progress import Ledger, Progress, Report, stored
from projector.views.spare import fill_spare, open_spare
from projector.views.store import Store
from projector.views.topic_ids import topic_ids

PARALLEL_FROM = 200_000
"""Fewer records than this are not worth a second process."""
SETTLE_PAUSES_S: tuple[float, ...] = (0.5, 1.0, 2.0)
"""Before a few rows that differ are compared again."""

log = get("rebuild")


def silent(_progress: Progress) -> None:
    """A report that nobody reads."""


async def start(
    settings: Settings,
    view: View,
    *,
    replace: bool = False,
    workers: int | None = None,
    source: str | None = None,
    report: Report = silent,
) -> Generations:
    """Fills the spare generation as far as the serving one is, or goes on where that was interrupted.

    `source` is `topics` or `log`, by default the topics if they reach back to the beginning. `workers` processes share
    the partitions, by default one for each core. Raises SpareInUseError when the spare generation holds something that
    is of use, unless `replace` is set; RebuildBusyError; and what reading the topics raises.
    """
    async with _work(settings, view, report) as work:
        found = await generations.load_one(work.conn, view)
        if found.state in (READY, PREVIOUS) and not replace:
            raise _in_use(found)
        try:
            if found.state != FILLING or source not in (None, found.source) or not await work.may_go_on():
                found = await work.begin(found, source)
            if found.source == "log":
                await work.fill_from_log(found)
            else:
                await work.fill_from_topics(found, workers or os.cpu_count() or 1)
            # What came meanwhile.
            await work.catch_up()
        except ProjectorError as error:
            await generations.settle(work.conn, view, FAILED, error.message)
            raise
        crash.point("rebuild.before_ready")
        await generations.settle(work.conn, view, READY)
        return await generations.load_one(work.conn, view)


async def diff(settings: Settings, view: View, *, report: Report = silent) -> ViewDifference:
    """Brings the spare generation to exactly where the serving one is, and compares all rows.

    The live view waits while the last records are read, and goes on before the rows are compared. Raises
    NothingRebuiltError, RebuildBusyError.
    """
    async with _work(settings, view, report) as work:
        return await work.compare(await work.expect(READY, PREVIOUS))


async def promote(
    settings: Settings, view: View, *, accept_differences: bool = False, report: Report = silent
) -> ViewDifference:
    """Lets the rebuilt generation serve; what served until now is kept, for `rollback`.

    Compares first, and raises DifferencesError when rows differ, unless that is accepted.
    """
    async with _work(settings, view, report) as work:
        found = await work.expect(READY)
        outcome = await (work.compare_once(found) if accept_differences else work.compare(found))
        if outcome.differences and not accept_differences:
            raise DifferencesError(
                f"{outcome.differences} of {outcome.rows} rows of view {view.name} were rebuilt otherwise",
                "`projector rebuild diff` shows them; if the rebuilt ones are right, promote with --accept-differences",
            )
        await work.take_over()
        return outcome


async def rollback(settings: Settings, view: View, *, report: Report = silent) -> None:
    """Lets the generation serve again that did before the last promotion, after it has caught up."""
    async with _work(settings, view, report) as work:
        await work.expect(PREVIOUS)
        await work.take_over()


async def cancel(settings: Settings, view: View, *, drop_previous: bool = False) -> bool:
    """Empties the spare generation; False when there is nothing in it.

    Raises SpareInUseError when it holds what served before, unless `drop_previous` is set.
    """
    async with generations.hold_spare(settings, view) as conn:
        found = await generations.load_one(conn, view)
        if found.state == EMPTY:
            return False
        if found.state == PREVIOUS and not drop_previous:
            raise _in_use(found)
        await generations.empty_spare(conn, view, found.spare)
        return True


async def rebuild_and_compare(
    settings: Settings, views: Iterable[View], report: Report = silent
) -> list[ViewDifference]:
    """Rebuilds each view, compares it with what serves, and empties the spare generation again."""
    outcomes = []
    for view in views:
        await start(settings, view, report=report)
        outcomes.append(await diff(settings, view))
        await cancel(settings, view)
    return outcomes


def _in_use(found: Generations) -> SpareInUseError:
    held = "a finished rebuild" if found.state == READY else "what served before the last promotion"
    return SpareInUseError(f"the spare generation of view {found.view} holds {held}")


@asynccontextmanager
async def _work(settings: Settings, view: View, report: Report) -> AsyncIterator[_Work]:
    cluster = await kafka.cluster_id(settings)
    partitions = await kafka.partitions_of(settings, kafka.topics_of(settings, view))
    ids = await topic_ids(settings, widths_of(partitions))
    async with generations.hold_spare(settings, view) as conn, kafka.consumer(settings) as consumer:
        yield _Work(settings, view, cluster, partitions, ids, conn, consumer, report)


@dataclass(frozen=True, slots=True)
class _Work:
    """One command that alone has the spare generation in hand. `consumer` is asked for offsets only."""

    settings: Settings
    view: View
    cluster: str
    partitions: list[Partition]
    topic_ids: Mapping[str, UUID]
    conn: psycopg.AsyncConnection[Any]
    consumer: AIOKafkaConsumer
    report: Report

    @property
    def serving(self) -> Positions:
        return Positions(self.view.name, self.cluster)

    @property
    def spare(self) -> Positions:
        return Positions(self.view.name, self.cluster, spare=True)

    async def expect(self, *states: str) -> Generations:
        """The generations, when the spare one is in one of `states`."""
        found = await generations.load_one(self.conn, self.view)
        if found.state not in states:
            holds = {EMPTY: "nothing", FILLING: "an unfinished rebuild", FAILED: "a failed rebuild"}
            raise NothingRebuiltError(
                f"the spare generation of view {self.view.name} holds "
                + holds.get(found.state, "a finished rebuild" if found.state == READY else "what served before")
            )
        return found

    async def may_go_on(self) -> bool:
        """Whether an interrupted rebuild was folded by the rules of this program, from these topics."""
        parameters = {
            "view": self.spare.name,
            "cluster": self.cluster,
            "version": FOLD_VERSION,
            "topics": list(self.topic_ids),
            "topic_ids": list(self.topic_ids.values()),
        }
        return await (await self.conn.execute(query("rebuild/other_rules"), parameters)).fetchone() is None

    async def begin(self, found: Generations, source: str | None) -> Generations:
        await generations.empty_spare(self.conn, self.view, found.spare)
        if source is None:
            beginnings = await self.consumer.beginning_offsets([TopicPartition(*one) for one in self.partitions])
            source = "log" if any(beginnings.values()) else "topics"
            if source == "log":
                log.warning("the topics lack their beginning: sync_changes is folded instead", view=self.view.name)
        ends = await self._ends()
        crash.point("rebuild.emptied")
        async with self.conn.transaction():
            await self.conn.execute(query("rebuild/begin"), {"view": self.view.name, "source": source})
            if source == "log":
                # All that the topics hold below these offsets is in the table by now.
                parameters = {
                    "view": self.spare.name,
                    "cluster": self.cluster,
                    "fold_version": FOLD_VERSION,
                    "topics": [partition.topic for partition in ends],
                    "partitions": [partition.partition for partition in ends],
                    "next_offsets": list(ends.values()),
                }
                await self.conn.execute(query("rebuild/open_at"), parameters)
        crash.point("rebuild.begun")
        return await generations.load_one(self.conn, self.view)

    async def fill_from_log(self, found: Generations) -> None:
        apps = self.view.apps(self.settings.apps)
        total = await (await self.conn.execute(query("rebuild/log_size"), {"apps": list(apps)})).fetchone()
        wal = await (await self.conn.execute(query("views/wal_end"))).fetchone()
        assert total is not None, "an aggregate has a row"
        assert wal is not None, "a function call has a row"
        ledger = Ledger(self.view, total[0], 0, self.report)
        async with stored(self.settings, ledger):
            store = Store(self.view, found.spare)
            place = Place(wal[1] or 1, parse_lsn(wal[0]), 0)
            await fill_from_log(self.conn, self.view, apps, store, place, ledger.teller(0))

    async def fill_from_topics(self, found: Generations, workers: int) -> None:
        ends = await self._ends()
        at = await self.spare.read(self.conn)
        left = {partition: max(0, end - at.get(partition, 0)) for partition, end in ends.items()}
        read = sum(ends.values()) - sum(left.values())
        ledger = Ledger(self.view, sum(ends.values()), read, self.report)
        letters = await self._keeps_letters()
        # A worker finds its view by name.
        parallel = sum(left.values()) >= PARALLEL_FROM and VIEWS.get(self.view.name) is self.view
        shares = share_out(left, workers if parallel else 1)
        async with stored(self.settings, ledger):
            try:
                async with TaskGroup() as tasks:
                    for number, share in enumerate(shares):
                        # The first one here: a process costs a second before it reads anything.
                        fill = fill_in_process if number else fill_spare
                        tasks.create_task(
                            fill(
                                self.settings,
                                self.view,
                                {partition: ends[partition] for partition in share},
                                empty=True,
                                keep_letters=letters,
                                tell=ledger.teller(number),
                            )
                        )
            except ExceptionGroup as failures:
                raise failures.exceptions[0] from None

    async def catch_up(self) -> None:
        """Brings the spare generation to where the serving one is now."""
        async with self._opened() as spare:
            await self._fill(spare, await self._ends())

    async def compare(self, found: Generations) -> ViewDifference:
        """What differs, and differs still a while later.

        A record is folded anew from the log when one of its rows was erased there, each generation at its own time: at
        equal offsets one of them may then hold what both have still before them in the topic.
        """
        outcome = await self.compare_once(found)
        for pause_s in SETTLE_PAUSES_S:
            if not 0 < outcome.differences <= len(outcome.examples):
                break
            await asyncio.sleep(pause_s)
            again = await self.compare_once(found)
            before = {one.key for one in outcome.examples}
            examples = tuple(one for one in again.examples if one.key in before)
            outcome = replace(again, differences=len(examples), examples=examples)
        return outcome

    async def compare_once(self, found: Generations) -> ViewDifference:
        async with self._level(self.serving.hold):
            await self.conn.execute("begin isolation level repeatable read")
            await self.conn.execute("select 1")  # takes the snapshot
        try:
            return await compare(self.conn, self.view, found.serving, without_places=found.source == "log")
        finally:
            await self.conn.execute("rollback")

    async def take_over(self) -> None:
        async with self._level(self.serving.bump) as beside:
            crash.point("rebuild.held")
            await generations.flip(beside, self.view)
            crash.point("rebuild.before_promoted")
        crash.point("rebuild.promoted")
        log.info("promoted", view=self.view.name)

    @asynccontextmanager
    async def _level(
        self, hold: Callable[[psycopg.AsyncConnection[Any]], Awaitable[dict[Partition, int]]]
    ) -> AsyncIterator[psycopg.AsyncConnection[Any]]:
        """Inside, both generations are at the same offsets, and the transaction given keeps the serving one there.

        What takes long is done before that, because the live view waits meanwhile.
        """
        async with self._opened() as spare, await connect(self.settings, "projector_engine") as beside:
            await self._fill(spare, await self._ends())
            async with beside.transaction():
                await self._fill(spare, await self._ends(await hold(beside)))
                yield beside

    @asynccontextmanager
    async def _opened(self) -> AsyncIterator[Filler]:
        letters = await self._keeps_letters()
        async with open_spare(self.settings, self.view, tell=lambda *_: None, keep_letters=letters) as spare:
            yield spare

    async def _fill(self, spare: Filler, ends: Mapping[Partition, int]) -> None:
        behind = sorted(partition for partition, end in ends.items() if spare.position(partition) > end)
        if behind:
            raise NotReachedError(
                f"view {self.view.name} is at {ends[behind[0]]} of {behind[0].topic}-{behind[0].partition}, its"
                f" spare generation at {spare.position(behind[0])}",
                "let `projector run views` catch up and try again",
            )
        await spare.fill(ends)

    async def _keeps_letters(self) -> bool:
        """Whether dead letters are the rebuild's to keep: the live view has kept those that it came by."""
        return not await self.serving.read(self.conn)

    async def _ends(self, serving: Mapping[Partition, int] | None = None) -> dict[Partition, int]:
        """Where the serving generation is, and no further than the topics reach; their end where it never was.

        Going further would pass dead letters by, which the live view is to keep. In a topic that was made anew it never
        was, whatever it has applied of the one before.
        """
        ends = {
            Partition(*partition): end
            for partition, end in (
                await self.consumer.end_offsets([TopicPartition(*one) for one in self.partitions])
            ).items()
        }
        at = await self.serving.read(self.conn) if serving is None else serving
        never = self.partitions if not at else await self.serving.strangers(self.conn, self.partitions, self.topic_ids)
        return {p: end if p in never else min(at.get(p, 0), end) for p, end in ends.items()}


def share_out(left: Mapping[Partition, int], workers: int) -> list[list[Partition]]:
    """The partitions dealt out so that each share has about as much left to read; one share at least."""
    shares: list[list[Partition]] = [[] for _ in range(max(1, min(workers, len(left))))]
    loads = [0] * len(shares)
    for partition in sorted(left, key=lambda one: (-left[one], one)):
        lightest = loads.index(min(loads))
        shares[lightest].append(partition)
        loads[lightest] += left[partition]
    return shares
