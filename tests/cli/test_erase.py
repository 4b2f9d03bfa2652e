"""`projector erase`: nothing of the user is left in any file of the database but the log's and the WAL."""

from __future__ import annotations

import base64
import secrets
import subprocess
from typing import Any

import orjson
import psycopg
import pytest

from projector.cli.erase import erase
from projector.config import Settings
from projector.errors import ConfigError
from projector.views import rebuild
from projector.views.declared import MISSIONS, VIEWS
from projector.views.verify import verify
from tests.cli.test_servers import run
from tests.views.log import Log, at, open_log, row, running

# Found in no other way than by its bytes: in rows, indexes, out-of-line values and statistics.
MARK = f"mark-{secrets.token_hex(12)}"
USER = f"user-{MARK}"
DUE = "2026-06-01T10:00:00Z"


@pytest.fixture
async def log(settings):
    async with open_log(settings) as opened:
        yield opened


def told(done: subprocess.CompletedProcess[str], event: str, **fields: Any) -> list[dict[str, Any]]:
    lines = [orjson.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if line["event"] == event and fields.items() <= line.items()]


def places(done: subprocess.CompletedProcess[str], stage: str) -> dict[str, int]:
    return {line["name"]: line["count"] for line in told(done, "place", stage=stage)}


async def work(log: Log, user: str, text: str) -> list[dict[str, Any]]:
    """What a user leaves behind in every place; returns the rows of the log."""
    big = text + base64.b64encode(secrets.token_bytes(6000)).decode()
    rows = [row("insert", f"n{n}", n, {"text": text}, user_id=user, app_id="notes", table="notes") for n in range(20)]
    rows += [
        row("insert", "m1", 1, {"title": text, "objective": big, "state": "active", "nextRunAt": at(0)}, user_id=user),
        row("update", "m2", 3, {}, user_id=user) | {"data": text},
    ]
    if user == USER:
        # The one user of a table: nothing is left in it to make statistics of afterwards.
        rows += [row("insert", f"a{n}", 2, {"name": text}, user_id=user, table="agents") for n in range(3)]
    await log.write(rows)
    for statement, values in (
        (
            "insert into mana_ai.mission_runs (run_id, user_id, mission_id, due_at, agent_id, iteration_id, state,"
            " next_attempt_at, lease_owner, lease_until, started_at, brief)"
            " values (gen_random_uuid(), %s, 'm1', now(), 'a1', gen_random_uuid(), 'running', null, 'w', now(), now(),"
            " jsonb_build_object('user', %s::text))",
            [user, big],
        ),
        (
            "insert into mana_ai.run_steps (run_id, seq, user_id, kind, request_digest, response)"
            " select run_id, 1, user_id, 'llm', sha256(''), jsonb_build_object('text', %s::text)"
            " from mana_ai.mission_runs where user_id = %s",
            [text, user],
        ),
        (
            "insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)"
            " select user_id, agent_id, mission_id, run_id, 5 from mana_ai.mission_runs where user_id = %s",
            [user],
        ),
        (
            "insert into mana_ai.mission_research_jobs (user_id, mission_id, run_id, provider_id, query)"
            " select user_id, mission_id, run_id, 'p', %s from mana_ai.mission_runs where user_id = %s",
            [text, user],
        ),
        ("insert into mana_ai.user_zones (user_id, zone) values (%s, %s)", [user, text]),
        (
            "insert into mana_ai.pruned_runs (user_id, mission_id, newest_due_at) values (%s, 'm0', now())",
            [user],
        ),
        (
            "insert into mana_ai.content_reads (user_id, run_id, reader) values (%s, gen_random_uuid(), 'olga')",
            [user],
        ),
        (
            "insert into mana_ai.cdc_dead_letters (source, lsn, ord, topic, change_id, user_id, size, reason)"
            " values (1, '0/1', 0, 't', %s, %s, 5, 'too-large')",
            [text, user],
        ),
        (
            "insert into mana_ai.cdc_fill_rows (fill, app_id, user_id, created_at, id)"
            " select max(fill), 'ai', %s, now(), gen_random_uuid() from mana_ai.cdc_fills",
            [user],
        ),
    ):
        await log.admin.execute(statement, values)
    return rows


async def lay_fill(log: Log) -> None:
    """A fill that has not come to anybody yet."""
    await log.admin.execute(
        "insert into mana_ai.cdc_sources (generation, system_identifier, slot_name) values (1, 'x', 's')"
    )
    await log.admin.execute(
        "insert into mana_ai.cdc_fills"
        " (generation, reason, apps, lsn, snapshot_xmin, whole, skip_from, filled_from, filled_to)"
        " values (1, 'history', '{ai}', '0/1', '3', true, '{}', '{}', '{}')"
    )


def files_with(settings: Settings, mark: str) -> set[str]:
    """The relations of the database, out-of-line values told by their table, whose files hold the mark."""
    with psycopg.connect(settings.admin_url, autocommit=True) as conn:
        conn.execute("checkpoint")
        names = conn.execute(
            "select coalesce(owner.relname, c.relname), pg_relation_filenode(c.oid)::text"
            " from pg_class c left join pg_class owner on owner.reltoastrelid = c.oid"
            " where pg_relation_filenode(c.oid) is not null"
        ).fetchall()
        relations = {filenode: name for name, filenode in names}
        files = conn.execute(
            "select name from (select oid from pg_database where datname = current_database()) d,"
            " pg_ls_dir('base/' || d.oid) as name"
            " where position(%s::bytea in pg_read_binary_file('base/' || d.oid || '/' || name, true)) > 0",
            [mark.encode()],
        ).fetchall()
    return {relations.get(name.partition("_")[0].partition(".")[0], name) for (name,) in files}


async def test_no_byte_of_an_erased_user_stays_in_the_database(log):
    settings = log.settings
    await lay_fill(log)
    rows = await work(log, USER, MARK)
    await work(log, "bertha", "other")
    async with running(settings):
        await log.caught_up()
    # A fill and a rebuild from the log come by the user and go on: their rows name nobody afterwards.
    await log.admin.execute("update mana_ai.cdc_fills set user_id = %s", [USER])
    await log.admin.execute("update mana_ai.cdc_fills set user_id = null")
    await rebuild.start(settings, MISSIONS, source="log")
    await log.admin.execute("update mana_ai.mission_snapshots_1 set status = 'odd' where user_id = %s", [USER])
    assert (await verify(settings, MISSIONS, settle_s=0)).differences == 1
    await log.admin.execute("analyze")
    tables = {f"{view.table}_1" for view in VIEWS.values()} | {"mission_snapshots_2", "dead_letters", "verify_runs"}
    tables |= {"mission_runs", "run_steps", "token_usage", "user_zones", "pruned_runs", "content_reads"}
    tables |= {"cdc_dead_letters", "cdc_fill_rows", "mission_research_jobs"}
    elsewhere = {"sync_changes", "pg_statistic", "record_snapshots_pkey", "cdc_fills", "view_rebuilds"}
    assert tables | elsewhere <= files_with(settings, MARK)
    for one in rows:
        await log.erase(one)
    done = run(settings, "erase", USER, "--yes", "--json")
    assert done.returncode == 0, done.stderr
    counted = places(done, "before")
    assert {f"mana_ai.{table}" for table in tables} <= {name for name, count in counted.items() if count}
    # Nothing that is counted is left out here, but for what no rebuild has filled, and what stands at no user now.
    unused = {f"{view.table}_2" for view in VIEWS.values() if view is not MISSIONS} | {"cdc_fills", "view_rebuilds"}
    assert {name for name in counted if name.startswith("mana_ai.")} == {f"mana_ai.{name}" for name in tables | unused}
    after = {name: count for name, count in places(done, "after").items() if count}
    assert set(after) <= {name for name in counted if ".sync_changes." in name}
    [end] = told(done, "erased")
    assert end["not_vacuumed"] == []
    assert {"the endpoint of the model", "the research and news services"} <= end["beyond"].keys()
    # The log's file is the sync server's to clean; the rest by what the command named.
    await log.admin.execute("vacuum (full, analyze) sync_changes")
    await log.admin.execute(end["rewrite"])
    assert files_with(settings, MARK) == set()
    assert files_with(settings, "bertha") >= tables - {"agent_snapshots_1", "verify_runs"}


async def test_without_yes_or_with_rows_in_the_log_everything_is_listed_and_nothing_erased(log):
    settings = log.settings
    await lay_fill(log)
    await work(log, USER, MARK)
    async with running(settings):
        await log.caught_up()
    at_user = "update mana_ai.cdc_fills set app_id = 'ai', user_id = %s, created_at = now(), id = gen_random_uuid()"
    await log.admin.execute(at_user, [USER])
    await log.admin.execute(
        "insert into mana_ai.view_rebuilds (view, id, state, source, after_user)"
        " values ('agents', gen_random_uuid(), 'filling', 'log', %s)",
        [USER],
    )
    refused = run(settings, "erase", USER, "--yes", "--json")
    assert refused.returncode == 1
    assert "sync_changes holds 25 rows of this user" in refused.stderr
    listed = places(refused, "before")
    assert [listed[f"mana_ai.{name}"] for name in ("mission_snapshots_1", "cdc_fills", "view_rebuilds")] == [1, 1, 1]
    await log.admin.execute("delete from sync_changes where record_id <> 'm1'")
    done = run(settings, "erase", USER)
    assert done.returncode == 2
    assert "--yes is missing, and the sync server has to erase the user first" in done.stderr
    named = {line.split()[1] for line in done.stdout.splitlines()}
    assert {"mana_ai.mission_snapshots_1", "mana_ai.run_steps", "mana_ai.cdc_fill_rows", "sync_changes,"} <= named
    assert {"mana_ai.cdc_fills", "mana_ai.view_rebuilds"} <= named
    assert await (await log.admin.execute("select count(*) from mana_ai.mission_runs")).fetchone() == (1,)


async def test_a_login_that_may_not_clean_the_tables_erases_and_names_what_their_owner_runs(log):
    settings = log.settings.model_copy(update={"admin_database_url": log.settings.database_url})
    await log.admin.execute(
        "insert into mana_ai.token_usage (user_id, agent_id, mission_id, run_id, tokens_used)"
        " values (%s, 'a', 'm', gen_random_uuid(), 1)",
        [USER],
    )
    await log.publish([row("insert", "n1", 1, {"text": "t"}, user_id=USER, app_id="notes", table="notes")])
    done = run(settings, "erase", USER, "--yes")
    assert done.returncode == 0, done.stderr
    assert "1 of them still count: `projector cdc republish --app notes`" in done.stdout
    assert "run as their owner: vacuum (analyze) mana_ai.mission_runs" in done.stdout
    assert await (await log.admin.execute("select count(*) from mana_ai.token_usage")).fetchone() == (0,)


async def test_a_user_of_whom_nothing_is_known(log):
    done = run(log.settings, "erase", "nobody")
    assert done.returncode == 2
    assert "nothing that the projector reads or keeps names this user" in done.stdout
    with pytest.raises(ConfigError, match="USER is empty"):
        erase("")
