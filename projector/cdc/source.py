"""Where the log comes from: which server, which generation of its LSNs, and whether the topics agree with it.

A generation is recorded in `mana_ai.cdc_sources` before its slot is created and marked ready afterwards, so every state
that a crash can leave is told apart. A slot that is gone, or topics that lost records, are healed: a new slot, and what
lies between published out of the table. A server that does not know what the topics hold is refused.
"""

from __future__ import annotations

from typing import NamedTuple

from projector.cdc import fill, republish
from projector.cdc.horizon import altered_topics, choose_horizon, missing, newest_ends
from projector.cdc.publication import Published
from projector.cdc.replication import Replication
from projector.cdc.server import PLUGIN, Connection, Server, Slot, read_server, read_slot
from projector.cdc.slot import add_apps, create_slot
from projector.cdc.tail import Tails
from projector.cdc.timeline import left_at
from projector.cdc.topics import remake
from projector.config import Settings
from projector.errors import ConfigError, ForeignSourceError, TopicSettingsError
from projector.log.place import lsn_text, parse_lsn
from projector.logging import get
from projector.sql import query

log = get("cdc")


class Source(NamedTuple):
    """`generation` orders LSNs of different servers; `apps` holds the LSN from which the stream brings each app."""

    generation: int
    apps: dict[str, int]


class Known(NamedTuple):
    """The newest row of `mana_ai.cdc_sources`; `consistent_lsn` is None until its first slot exists."""

    generation: int
    system_identifier: str
    slot_name: str
    consistent_lsn: int | None
    slot_ready: bool
    timeline: int | None
    beat: int
    publication_oid: int | None


async def read_known(conn: Connection) -> Known | None:
    row = await (await conn.execute(query("cdc/sources"))).fetchone()
    if row is None:
        return None
    generation, system_identifier, slot_name, consistent_lsn, slot_ready, timeline, beat, oid = row
    lsn = parse_lsn(consistent_lsn) if consistent_lsn else None
    return Known(generation, system_identifier, slot_name, lsn, slot_ready, timeline, beat, oid)


async def ensure_source(
    conn: Connection,
    replication: Replication,
    settings: Settings,
    published: Published,
    tails: Tails,
    *,
    adopt: bool = False,
) -> Source:
    """The generation in force, with a slot that is sound and a fill laid out for whatever the slot does not bring.

    `conn` is a session in projector_cdc that holds the writer's lock, `replication` one that may replicate; the stream
    is about to read through `published`. Raises ConfigError, PrivilegeError, HiddenRowsError, TopicSettingsError for a
    topic that was given partitions since it was filled, and ForeignSourceError for a server that is not the one whose
    log the topics hold; with `adopt` such a server is taken as the next generation.
    """
    server = await read_server(conn)
    timeline = await replication.timeline()
    known = await read_known(conn)
    slot = await read_slot(conn, settings.slot_name)
    try:
        if known is None:
            _require_first_start(slot, settings, tails)
        else:
            await _require_same_log(replication, known, server, timeline, tails)
    except ForeignSourceError as error:
        if not adopt:
            raise
        log.warning("server adopted", because=error.message)
        known = await _next_generation(conn, settings, server, tails, known)
    else:
        if adopt and known is not None:
            log.info("nothing to adopt: the topics hold this server's log", source=known.generation)
    if known is None:
        known = await _add_generation(conn, settings, server, 1)
    if known.slot_name != settings.slot_name:
        raise ConfigError(
            f"the stream was started with the slot {known.slot_name}, PROJECTOR_SLOT_NAME says {settings.slot_name}",
            f"set PROJECTOR_SLOT_NAME={known.slot_name}",
        )
    await _ensure_sound_slot(conn, replication, settings, tails, known, slot)
    if known.publication_oid not in (None, published.oid):
        log.warning("publication was made anew; publishing what topics lack out of the table", apps=settings.apps)
        await republish.ask(conn, settings.apps)
    await _fill_new_apps(conn, replication, settings, tails, known.generation)
    newest_beat = tails.watermark.beat if tails.watermark and tails.watermark.source == known.generation else None
    await conn.execute(query("cdc/seen_source"), [timeline, published.oid, newest_beat or 0, known.generation])
    return Source(known.generation, await _apps(conn, known.generation))


async def _apps(conn: Connection, generation: int) -> dict[str, int]:
    rows = await (await conn.execute(query("cdc/apps"), [generation])).fetchall()
    return {app: parse_lsn(lsn) for app, lsn in rows}


def _require_first_start(slot: Slot | None, settings: Settings, tails: Tails) -> None:
    if tails.places:
        topic, _ = next(iter(tails.places))
        raise ForeignSourceError(
            f"{topic} holds records, and this database knows nothing of them",
            "set another PROJECTOR_TOPIC_PREFIX; or, if these topics are to go on with this database, run"
            " `projector run cdc --adopt` once",
        )
    if slot is not None:
        raise ConfigError(
            f"a replication slot {settings.slot_name} exists that this installation did not create",
            "set PROJECTOR_SLOT_NAME to another name, or drop it:"
            f" select pg_drop_replication_slot('{settings.slot_name}')",
        )


async def _require_same_log(
    replication: Replication, known: Known, server: Server, timeline: int, tails: Tails
) -> None:
    """A topic that is ahead of the server was filled from another one, or from a state that the server lost."""
    if known.system_identifier != server.system_identifier:
        raise ForeignSourceError(
            f"this is server {server.system_identifier}, the topics hold the log of {known.system_identifier}"
        )
    end, why = server.lsn, "where the server's log ends"
    if known.timeline is not None and known.timeline != timeline:
        left = await left_at(replication, known.timeline, timeline)
        if left is None:
            raise ForeignSourceError(f"the server's timeline {timeline} does not come from {known.timeline}")
        end, why = left, f"where the server's timeline {timeline} left the one that was streamed"
    for (topic, partition), place in tails.places.items():
        if place >= (known.generation, end, 0):
            raise ForeignSourceError(
                f"{topic}/{partition} ends at {place}, beyond {lsn_text(end)} of generation {known.generation},"
                f" {why}: the server has lost what was published"
            )
    mark = tails.watermark
    if mark is None or mark.source != known.generation or known.timeline != timeline:
        return
    if mark.beat is not None and mark.beat > known.beat:
        raise ForeignSourceError(
            f"the topics hold heartbeat {mark.beat}, the database counts {known.beat}:"
            " it was restored from an older copy"
        )


async def _add_generation(conn: Connection, settings: Settings, server: Server, generation: int) -> Known:
    await conn.execute(query("cdc/add_source"), [generation, server.system_identifier, settings.slot_name])
    return Known(generation, server.system_identifier, settings.slot_name, None, False, None, 0, None)


async def _next_generation(
    conn: Connection, settings: Settings, server: Server, tails: Tails, known: Known | None
) -> Known:
    newest = max((place.source for place in tails.places.values()), default=0)
    generation = max(newest, known.generation if known else 0) + 1
    return await _add_generation(conn, settings, server, generation)


async def _ensure_sound_slot(
    conn: Connection, replication: Replication, settings: Settings, tails: Tails, known: Known, slot: Slot | None
) -> None:
    name = settings.slot_name
    if known.slot_ready:
        if slot is not None and (slot.plugin != PLUGIN or not slot.ours):
            raise ConfigError(
                f"the replication slot {name} belongs to another database or plugin ({slot.plugin})",
                "set PROJECTOR_SLOT_NAME to a name of this installation's own",
            )
        kept = await newest_ends(conn, known.generation)
        for topic, count in altered_topics(kept, tails.ends).items():
            raise TopicSettingsError(
                f"topic {topic} has {len(tails.ends[topic])} partitions and was filled when it had {count}: keys would"
                " move to other partitions, and a user's changes lose their order",
                remake(settings, topic),
            )
        # Partitions that end below what Kafka had acknowledged.
        lost = missing(kept, tails.ends)
        if slot is not None and not slot.lost and not lost:
            return
        if slot is None:
            log.warning("slot is gone; creating it and publishing the gap out of the table", slot=name)
        elif slot.lost:
            log.warning(
                "slot was invalidated; creating it anew and publishing the gap out of the table",
                slot=name,
                reason=slot.invalidation or slot.wal_status,
            )
        if lost:
            log.warning("topics lost records; publishing them again out of the table", partitions=lost)
        reason = "slot-lost" if slot is None or slot.lost else "records-lost"
    else:
        reason = "slot-lost"
    await fill.require_rights(conn)
    if known.consistent_lsn is None:
        whole = fill.Plan("history" if known.generation == 1 else "adopted", settings.apps, None, fill.beginning(tails))
        await create_slot(conn, replication, settings, known.generation, whole, tails.ends)
        return
    known_apps = await _apps(conn, known.generation)
    plan = fill.Plan(
        reason,
        tuple(app for app in settings.apps if app in known_apps),
        await choose_horizon(conn, known.generation, tails.ends),
        fill.beginning(tails),
    )
    await create_slot(conn, replication, settings, known.generation, plan, tails.ends)


async def _fill_new_apps(
    conn: Connection, replication: Replication, settings: Settings, tails: Tails, generation: int
) -> None:
    """An app that was added, or left out for a while, is published out of the table up to a point of its own."""
    await conn.execute(query("cdc/forget_apps"), [generation, list(settings.apps)])
    known = await _apps(conn, generation)
    added = tuple(app for app in settings.apps if app not in known)
    if not added:
        return
    await fill.require_rights(conn)
    plan = fill.Plan("app", added, None, fill.beginning(tails))
    await add_apps(conn, replication, settings, generation, plan, tails.ends)
