"""The whole way on real servers: due, planned, written, staged, decided, done, and back in the views."""

from __future__ import annotations

import psycopg

from projector.cli.demo.story import mission
from projector.config import Settings
from projector.devices import AGENTS, MISSIONS, NOTES, Replica, SyncServer
from projector.devices.revert import revert
from projector.devices.review import Review
from projector.log.change import Change
from streams import cdc, planner, sink, timers, views
from tests.fixtures.settings import Database
from tests.llm.double import Double, calls, text
from tests.planner.test_streams import running, until

NOTE = ("create_note", {"title": "Balkon", "content": "Gießen am Abend"})
TASK = ("create_task", {"title": "Dünger kaufen"})
SLOT = "select 1 from pg_replication_slots where slot_name = current_database() and active"
LIST = (
    "select status, feedback, shown, iteration, brought_by::text in (select id::text from sync_changes"
    " where client_id = 'mana-ai-runner') from mana_ai.mission_iteration_list where user_id = 'ada'"
)
NOTES_SHOWN = "select record_id, record ->> 'content', deleted from mana_ai.record_snapshots where user_id = 'ada'"


class Keeping(Replica):
    """Keeps the rows it pulls, as a store of events would."""

    def __init__(self, user_id: str) -> None:
        super().__init__(user_id)
        self.rows: list[Change] = []

    def apply(self, change: Change) -> None:
        self.rows.append(change)
        super().apply(change)


async def test_a_plan_is_reviewed_on_a_device_and_what_was_decided_outlives_a_device_that_had_not_pulled(
    settings: Settings, database: Database
) -> None:
    phone, laptop = Replica("ada"), Replica("ada")
    review = Review(phone)
    with (
        psycopg.connect(database.admin_url, autocommit=True) as admin,
        SyncServer(database.logins.sync) as server,
    ):

        def view(what: str = LIST) -> list[tuple]:
            return admin.execute(what).fetchall()

        async with Double(calls(NOTE, TASK), text("fertig")) as double:
            settings = settings.model_copy(update={"llm_base_url": double.url, "due_interval_s": 0.2})
            async with running(settings, cdc.run, views.run, timers.run, planner.run, sink.run):
                await until(lambda: view(SLOT))
                agent_id = phone.create(AGENTS, {"name": "Gärtnerin", "role": "", "state": "active"})
                mission_id = phone.create(MISSIONS, mission("Balkon", agent_id, minutes_ago=1))
                server.sync(phone, "ai")
                server.pull(laptop, "ai")

                await until(lambda: server.pull(phone, "ai") and phone.record(MISSIONS, mission_id)["iterations"])
                assert review.refresh() == 1
                note, task = review.proposals("pending", mission_id=mission_id)
                review.approve(note)
                review.reject(task, "Dünger ist da")
                [running_note] = review.executions()
                phone.actor, user = running_note.actor, phone.actor
                phone.create(NOTES, running_note.params, running_note.effect_id)
                phone.actor = user
                review.executed(running_note)
                server.push(phone)

                # A view that shows the note and the decisions has seen what the laptop is about to drop.
                await until(lambda: view(NOTES_SHOWN) and view()[0][0] == "approved")
                laptop.edit(MISSIONS, mission_id, {"title": "Terrasse"})
                server.push(laptop)
                await until(lambda: view()[0][2] is False)
                [(status, feedback, _, iteration, from_server)] = view()
                assert (status, feedback, from_server) == ("approved", "Dünger ist da", True)
                steps = [(one["status"], one["proposalId"], one.get("userFeedback")) for one in iteration["plan"]]
                assert steps == [("approved", note.id, None), ("rejected", task.id, "Dünger ist da")]
                assert view(NOTES_SHOWN) == [(note.effect_id, NOTE[1]["content"], False)]

                server.pull(phone, "ai")
                assert phone.record(MISSIONS, mission_id)["iterations"] == []
                assert [one.status for one in review.proposals()] == ["approved", "rejected"]
                new = Keeping("ada")
                server.sync(new, "ai", "notes")
                assert revert(review, new.rows, mission_id, note.iteration_id).edited == ((*NOTES[:2], note.effect_id),)
                server.push(phone)
                await until(lambda: view(NOTES_SHOWN)[0][2] and view()[0][2])
                [(status, feedback, _, iteration, _)] = view()
                assert (status, feedback, "revertedAt" in iteration) == ("approved", "Dünger ist da", True)
                server.sync(laptop, "ai")
                shown = laptop.record(MISSIONS, mission_id)
                assert (shown["title"], [one["id"] for one in shown["iterations"]]) == ("Terrasse", [note.iteration_id])
        assert len(double.requests) == 2
