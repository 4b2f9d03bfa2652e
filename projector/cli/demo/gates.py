"""An act of the story: what an agent may not do is not done, and the ledger says why."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import psycopg

from projector.cli.demo.follow import one_row, until
from projector.cli.demo.show import Show
from projector.devices import AGENTS, MISSIONS, Replica, SyncServer
from projector.embedded.environment import Environment
from projector.errors import DifferencesError

AGENT_LIMIT_S, HELD_LIMIT_S = 5.0, 10.0
ANSWERS = "select count(*) from mana_ai.run_steps"
HELD = "select decision, reason from mana_ai.mission_runs where mission_id = %s and state = 'held'"
SHOWN = """
select 1 from mana_ai.agent_snapshots paused, mana_ai.agent_snapshots capped
where paused.agent_id = %s and capped.agent_id = %s and capped.record -> 'maxTokensPerDay' = %s::jsonb
"""
CAP = 10


async def turn_away(
    env: Environment, show: Show, server: SyncServer, phone: Replica, cases: list[tuple[str, dict[str, Any]]]
) -> None:
    """For each expected decision and due mission: the run is held for it, and nothing is asked of the model."""
    show.act("Two missions are due whose agents may not run: one is paused, one has spent its tokens of the day")
    async with await psycopg.AsyncConnection.connect(env.admin_url, autocommit=True) as conn:
        asked = await one_row(conn, ANSWERS)
        for decision, fields in cases:
            mission_id = phone.create(MISSIONS, fields)
            await asyncio.to_thread(server.push, phone)
            run, _ = await until("held", HELD_LIMIT_S, partial(one_row, conn, HELD, mission_id))
            if run[0] != decision:
                raise DifferencesError(f"“{fields['title']}” was held as {run[0]}, not {decision}")
            show.fact("held", f"“{fields['title']}”: {run[0]}, {run[1]}", decision=run[0], reason=run[1])
        if await one_row(conn, ANSWERS) != asked:
            raise DifferencesError("the model was asked for a run that its agent may not do")


async def set_up_agents(
    env: Environment, server: SyncServer, phone: Replica, spender: str, agent: dict[str, Any]
) -> str:
    """Caps the agent `spender` below what it spent, makes a paused one, and returns that one's id once both show."""
    paused = phone.create(AGENTS, agent | {"name": "Putzkraft", "state": "paused"})
    phone.edit(AGENTS, spender, {"maxTokensPerDay": CAP})
    await asyncio.to_thread(server.push, phone)
    async with await psycopg.AsyncConnection.connect(env.admin_url, autocommit=True) as conn:
        await until("snapshot row", AGENT_LIMIT_S, partial(one_row, conn, SHOWN, paused, spender, str(CAP)))
    return paused
