from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest

from tests.cli.test_demo import processes_mentioning

LIMIT_S = 90.0
INSERT = (
    "insert into sync_changes (app_id, table_name, record_id, user_id, op, data, client_id)"
    " values ('notes', 'notes', %s, 'ada', 'insert', '{\"title\": \"a\"}', 'test')"
)


class Dev:
    """`projector dev --json` on one folder; `told` is what it said when it was ready."""

    def __init__(self, folder: Path) -> None:
        outer = {name: value for name, value in os.environ.items() if not name.startswith("PROJECTOR_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "projector", "dev", "--json"],
            env={**outer, "PROJECTOR_STATE_DIR": str(folder)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.told = self.wait_for("ready")

    def wait_for(self, event: str) -> dict[str, Any]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            entry: dict[str, Any] = orjson.loads(line)
            if entry.get("event") == event:
                return entry
        raise AssertionError(f"it ended with {self.process.wait()} before it was {event}")

    def write(self, record_id: str) -> None:
        with psycopg.connect(self.told["log (the sync server's login)"]) as conn:
            conn.execute("select set_config('app.current_user_id', 'ada', false)")
            conn.execute(INSERT, [record_id])

    def rows(self) -> list[str]:
        with psycopg.connect(self.told["database (the streams' login)"], options="-c role=projector_reader") as conn:
            conn.execute("select set_config('app.current_user_id', 'ada', false)")
            found = conn.execute("select record_id from mana_ai.record_snapshots order by 1").fetchall()
            return [record_id for (record_id,) in found]

    def end(self, number: int) -> int:
        self.process.send_signal(number)
        code = self.process.wait(LIMIT_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path / "state"
    assert wait_until(lambda: not processes_mentioning(str(tmp_path)))


def wait_until(condition: Callable[[], bool], limit_s: float = 30.0) -> bool:
    limit = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > limit:
            return False
        time.sleep(0.1)
    return True


def test_dev_goes_on_with_its_data_after_ctrl_c_and_after_sigkill_and_leaves_no_process(folder: Path) -> None:
    first = Dev(folder)
    first.write("before ctrl-c")
    assert wait_until(lambda: first.rows() == ["before ctrl-c"])
    assert first.end(signal.SIGINT) == 0
    assert processes_mentioning(str(folder)) == []

    second = Dev(folder)
    assert second.rows() == ["before ctrl-c"]
    os.kill(second.told["pids"]["views"], signal.SIGKILL)
    assert second.wait_for("ended") == {"event": "ended", "stream": "views", "status": -9, "restart_in_s": 0.5}
    second.write("while views was away")
    assert wait_until(lambda: second.rows() == ["before ctrl-c", "while views was away"])
    assert second.end(signal.SIGKILL) == -signal.SIGKILL
    assert wait_until(lambda: not processes_mentioning(str(folder)))

    third = Dev(folder)
    assert third.rows() == ["before ctrl-c", "while views was away"]
    assert third.end(signal.SIGTERM) == 0
