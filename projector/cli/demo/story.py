"""The story: a mission becomes due and is planned, two devices disagree, and the views are proved from the log."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg

from projector.cli.demo.follow import TopicWatch, one_row, until
from projector.cli.demo.gates import set_up_agents, turn_away
from projector.cli.demo.show import Show
from projector.devices import AGENTS, MISSIONS, NOTES, DeviceClock, Replica, SyncServer
from projector.embedded.environment import Environment
from projector.errors import DifferencesError
from projector.log.ids import iteration_change_id, iteration_id
from projector.log.topics import Topics
from projector.planner.iteration import iso_ms
from projector.sql.connection import connect

# How long each stage may take before the demo calls it failed, seconds.
LIMIT_S = {"topic": 5.0, "snapshot row": 5.0, "due": 10.0, "planned": 15.0, "written back": 10.0, "device": 10.0}

ADA, BEN = "ada", "ben"
AGENT = {
    "name": "Gärtnerin",
    "role": "kümmert sich um den Balkon",
    "state": "active",
    "maxConcurrentMissions": 1,
    "policy": {"tools": {}, "defaultsByModule": {}, "defaultForAi": "propose"},
}


async def play(env: Environment, show: Show) -> None:
    """Plays every act; raises StageTimeoutError naming the stage that did not come in time."""
    with SyncServer(env.logins.sync) as server:
        phone, laptop = Replica(ADA), Replica(ADA)
        tablet = Replica(BEN)
        mission_id = await _mission_travels(env, show, server, phone, laptop)
        await _another_user(env, show, server, tablet)
        await _devices_disagree(env, show, server, phone, laptop, mission_id)
        await _agents_may_not(env, show, server, phone, mission_id)
    await _prove(env, show)


async def _mission_travels(env: Environment, show: Show, server: SyncServer, phone: Replica, laptop: Replica) -> str:
    show.act("Ada's phone creates a mission that is due; nobody has a browser open")
    agent_id = phone.create(AGENTS, AGENT)
    server.push(phone)
    topic = Topics(env.settings.topic_prefix).changes("ai")
    watch = await TopicWatch.open(env.settings, topic)
    try:
        mission_id = phone.create(MISSIONS, mission("Balkon gießen", agent_id, minutes_ago=1))
        async with await psycopg.AsyncConnection.connect(env.admin_url, autocommit=True) as ledger:
            follow = asyncio.create_task(_follow_run(env, ledger, mission_id))
            await asyncio.to_thread(server.push, phone)
            seen = await watch.find(mission_id, LIMIT_S["topic"])

            def since(us: int) -> float:
                return (us - seen.committed_us) / 1000

            show.stage("committed", 0.0, f"change {seen.change_id} at {seen.lsn}")
            show.stage("topic", since(seen.seen_us), f"{seen.topic}, partition {seen.partition}, offset {seen.offset}")
            for name, us, detail in await follow:
                show.stage(name, since(us), detail)
            shown, us = await until("device", LIMIT_S["device"], lambda: _shows_iteration(server, laptop, mission_id))
            show.stage("on the laptop", since(us), f"Ada sees “{shown['summary']}”, status {shown['overallStatus']}")
            return mission_id
    finally:
        await watch.close()


async def _follow_run(
    env: Environment, ledger: psycopg.AsyncConnection[Any], mission_id: str
) -> list[tuple[str, int, str]]:
    """Waits for row, run, plan and write-back; each with the time at which it was there."""
    async with await connect(env.settings, "projector_reader") as reader:
        await reader.execute("select set_config('app.current_user_id', %s, false)", [ADA])
        row, row_us = await until(
            "snapshot row",
            LIMIT_S["topic"] + LIMIT_S["snapshot row"],
            lambda: one_row(
                reader,
                "select status, next_run_at, source_lsn from mana_ai.mission_snapshots where mission_id = %s",
                mission_id,
            ),
        )
    stages = [
        ("snapshot row", row_us, f"mission_snapshots, status {row[0]}, next run {row[1]:%H:%M:%S}, from {row[2]}")
    ]
    run, us = await until(
        "due",
        LIMIT_S["due"],
        lambda: one_row(ledger, "select run_id, due_at from mana_ai.mission_runs where mission_id = %s", mission_id),
    )
    stages.append(("due", us, f"run {run[0]}, due {run[1]:%H:%M:%S}"))
    plan, us = await until(
        "planned",
        LIMIT_S["planned"],
        lambda: one_row(
            ledger,
            "select jsonb_array_length(plan -> 'steps'), prompt_tokens + completion_tokens,"
            " (select count(*) from mana_ai.run_steps s where s.run_id = r.run_id and kind = 'llm')"
            " from mana_ai.mission_runs r where run_id = %s and plan is not null",
            run[0],
        ),
    )
    stages.append(("planned", us, f"{plan[0]} steps in {plan[2]} model calls, {plan[1]} tokens, stored before use"))
    change_id = iteration_change_id(iteration_id(run[0]))
    written, us = await until(
        "written back",
        LIMIT_S["written back"],
        lambda: one_row(ledger, "select data ->> 'nextRunAt' from sync_changes where id = %s", change_id),
    )
    stages.append(("written back", us, f"change {change_id}, next run {written[0]}"))
    return stages


async def _another_user(env: Environment, show: Show, server: SyncServer, tablet: Replica) -> None:
    show.act("Ben has notes and an agent of his own")
    tablet.create(AGENTS, AGENT, "legacy:ai-default")
    for number in range(3):
        tablet.create(NOTES, {"title": f"Notiz {number}", "content": "nur für Ben"})
    await asyncio.to_thread(server.push, tablet)
    async with await connect(env.settings, "projector_reader") as reader:

        async def counts() -> dict[str, int] | None:
            found = {}
            for user in (ADA, BEN):
                async with reader.transaction():
                    await reader.execute("select set_config('app.current_user_id', %s, true)", [user])
                    row = await one_row(reader, "select count(*) from mana_ai.record_snapshots")
                    found[user] = row[0] if row else 0
            return found if found[BEN] == 3 else None

        found, _ = await until("snapshot row", LIMIT_S["snapshot row"], counts)
    if found[ADA]:
        raise DifferencesError(f"a reader as {ADA} sees {found[ADA]} rows of {BEN}")
    show.fact("isolation", f"a reader as Ben sees {found[BEN]} notes, as Ada {found[ADA]}", **found)


async def _devices_disagree(
    env: Environment, show: Show, server: SyncServer, phone: Replica, laptop: Replica, mission_id: str
) -> None:
    show.act("Both of Ada's devices rename the mission while offline, the laptop 40 ms later; the phone pushes last")
    await asyncio.to_thread(server.sync, phone, "ai")
    await asyncio.to_thread(server.sync, laptop, "ai")
    phone.clock, laptop.clock = DeviceClock(), DeviceClock(offset_us=40_000)
    phone.edit(MISSIONS, mission_id, {"title": "Balkon und Kräuter gießen"})
    laptop.edit(MISSIONS, mission_id, {"title": "Balkon gießen, abends", "cadence.atHour": 19})
    for device in (laptop, phone):
        await asyncio.to_thread(server.push, device)
    winner = "Balkon gießen, abends"
    async with await connect(env.settings, "projector_reader") as reader:
        await reader.execute("select set_config('app.current_user_id', %s, false)", [ADA])

        async def settled() -> tuple[Any, ...] | None:
            return await one_row(
                reader,
                "select record ->> 'title', record -> 'cadence' ->> 'atHour', last_applied_at"
                " from mana_ai.mission_snapshots where mission_id = %s and record ->> 'title' = %s"
                " and last_applied_at >= (select max(created_at) from (values (%s::timestamptz)) as v (created_at))",
                mission_id,
                winner,
                await _newest(env, mission_id),
            )

        row, _ = await until("snapshot row", LIMIT_S["snapshot row"], settled)
    for device in (phone, laptop):
        await asyncio.to_thread(server.sync, device, "ai")
    shown = {name: _field(device, mission_id, "title") for name, device in (("phone", phone), ("laptop", laptop))}
    for name, device in (("phone", phone), ("laptop", laptop)):
        stamp = device.stamp(MISSIONS, mission_id, "title")
        show.fact(name, f"shows “{shown[name]}”, written {stamp[11:23]}")
    if set(shown.values()) != {row[0]}:
        raise DifferencesError(f"the row shows {row[0]!r}, the devices {shown}")
    show.fact("row", f"shows “{row[0]}” at {row[1]}:00 as well: the later edit won, though it was pushed first")
    await _explain(env, show, mission_id)


async def _explain(env: Environment, show: Show, mission_id: str) -> None:
    """As `projector explain mission …` and `projector show mission … --as-of OFFSET` do."""
    from projector.fold import derive, fold, format_instant
    from projector.views.asof import AtOffset, select
    from projector.views.explain import explain
    from projector.views.history import read_history

    history = await read_history(env.settings, (ADA, MISSIONS.app_id, MISSIONS.table, mission_id), lambda _: None)
    [title] = [one for one in explain(history.entries).fields if one.path == ("title",)]
    if history.standing != "equal" or not title.beaten or title.entry.offset is None:
        raise DifferencesError(f"the row of mission {mission_id} is not explained by its changes: {history.standing}")
    lost = title.beaten[0].write
    show.fact(
        "explain",
        f"title: “{title.write.value}” of {format_instant(title.write.instant)[11:23]}, change {title.write.change_id}"
        f" at offset {title.entry.offset},",
    )
    show.fact("", f"beat “{lost.value}” of {format_instant(lost.instant)[11:23]}, change {lost.change_id}")
    before = derive(fold(e.change for e in select(history.entries, AtOffset(title.entry.offset), history.reach)))
    show.fact(
        "as of", f"offset {title.entry.offset}, before the laptop pushed, the title was “{before.fields['title']}”"
    )


async def _agents_may_not(env: Environment, show: Show, server: SyncServer, phone: Replica, mission_id: str) -> None:
    spender = str(_field(phone, mission_id, "agentId"))
    paused = await set_up_agents(env, server, phone, spender, AGENT)
    cases = [
        ("skipped-paused", mission("Treppe fegen", paused, minutes_ago=1)),
        ("skipped-budget", mission("Kräuter ernten", spender, minutes_ago=1)),
    ]
    await turn_away(env, show, server, phone, cases)


async def _prove(env: Environment, show: Show) -> None:
    from projector.views.declared import VIEWS
    from projector.views.rebuild import rebuild_and_compare
    from projector.views.verify import verify

    show.act("Each view is folded anew into its spare table from offset 0, and compared")
    rebuilt = {d.view: d for d in await rebuild_and_compare(env.settings, tuple(VIEWS.values()))}
    rows = []
    for name, view in VIEWS.items():
        report = await verify(env.settings, view)
        rows.append((name, report.rows, rebuilt[name].differences, report.differences))
    show.proof(rows)
    if any(differs or folded for _, _, differs, folded in rows):
        raise DifferencesError("the serving tables are not the fold of the log")


async def _newest(env: Environment, mission_id: str) -> datetime | None:
    async with await psycopg.AsyncConnection.connect(env.admin_url, autocommit=True) as conn:
        row = await one_row(conn, "select max(created_at) from sync_changes where record_id = %s", mission_id)
        return row[0] if row else None


async def _shows_iteration(server: SyncServer, device: Replica, mission_id: str) -> dict[str, Any] | None:
    await asyncio.to_thread(server.pull, device, "ai")
    iterations = _field(device, mission_id, "iterations")
    return iterations[0] if isinstance(iterations, list) and iterations else None


def _field(device: Replica, mission_id: str, name: str) -> Any:
    return (device.record(MISSIONS, mission_id) or {}).get(name)


def mission(title: str, agent_id: str, *, minutes_ago: float) -> dict[str, Any]:
    """A daily mission of that agent, due some minutes ago."""
    due = datetime.now(UTC) - timedelta(minutes=minutes_ago)
    return {
        "title": title,
        "objective": "Der Balkon bekommt Wasser, bevor es heiß wird",
        "conceptMarkdown": "Zehn Töpfe, zwei Kästen, ein Zitronenbaum.",
        "state": "active",
        "agentId": agent_id,
        "cadence": {"kind": "daily", "atHour": 7, "atMinute": 30},
        "nextRunAt": iso_ms(due),
        "inputs": [],
        "iterations": [],
    }
