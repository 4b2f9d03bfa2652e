from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from projector.cli.demo.follow import until
from projector.errors import StageTimeoutError

STAGES = ["committed", "topic", "snapshot row", "due", "planned", "written back", "on the laptop"]


def processes_mentioning(text: str) -> list[str]:
    """Command lines, and environments, of living processes that hold `text`."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes() + (folder / "environ").read_bytes()
        except OSError:
            continue  # ended while we looked, or another user's
        if text.encode() in words and int(folder.name) != os.getpid():
            found.append(words.decode(errors="replace")[:200])
    return found


def test_the_demo_shows_every_stage_proves_the_views_and_leaves_nothing_behind(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "projector", "demo", "--json"],
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = [orjson.loads(line) for line in done.stdout.splitlines()]
    stages = [(entry["stage"], entry["ms_since_commit"]) for entry in told if entry["event"] == "stage"]
    assert [name for name, _ in stages] == STAGES
    # The topic is watched beside the others, so it may be seen a moment after the row.
    waited_for = [ms for name, ms in stages if name != "topic"]
    assert waited_for == sorted(waited_for)
    held = [(entry["decision"], entry["reason"]) for entry in told if entry.get("name") == "held"]
    assert [decision for decision, _ in held] == ["skipped-paused", "skipped-budget"]
    assert held[0][1] == "the agent is paused"
    assert "tokens in 24 hours" in held[1][1]
    facts = [(entry["name"], entry["detail"]) for entry in told if entry["event"] == "fact"]
    (_, won), (_, lost), (as_of, before) = facts[[name for name, _ in facts].index("explain") :][:3]
    assert won.startswith("title: “Balkon gießen, abends” of ")
    assert lost.startswith("beat “Balkon und Kräuter gießen” of ")
    assert (as_of, before.endswith("the title was “Balkon gießen”")) == ("as of", True)
    proof = [entry for entry in told if entry["event"] == "proof"]
    assert [entry["view"] for entry in proof] == ["missions", "agents", "iterations", "records"]
    assert all(entry["rows"] > 0 for entry in proof)
    assert {(entry["differ_from_rebuild"], entry["differ_from_sql"]) for entry in proof} == {(0, 0)}
    assert told[-1]["event"] == "end"
    assert list(tmp_path.iterdir()) == []
    assert processes_mentioning(str(tmp_path)) == []


async def test_a_stage_that_does_not_come_is_named() -> None:
    async def never() -> None:
        await asyncio.sleep(0)

    with pytest.raises(StageTimeoutError, match=r"stage 'planned' was not reached within 0\.05 s"):
        await until("planned", 0.05, never)
