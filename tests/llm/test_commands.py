"""`projector llm` as an operator meets it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from typer.testing import CliRunner

from projector.cli import app
from projector.errors import AliasConfigError, ConfigError, HardWiredModelError, UnknownAliasError
from tests.llm.test_service import KEY, SHIPPED, replace, service
from tests.llm.upstream import Upstream, answer

REPOSITORY = Path(__file__).parents[2]


def printed(*words: str, fails: type[Exception] | None = None) -> str:
    """What the command prints; with `fails` it has to end with that error."""
    outcome = CliRunner().invoke(app, ["llm", *words])
    if fails is None and isinstance(outcome.exception, Exception):
        raise outcome.exception
    if fails is not None:
        assert isinstance(outcome.exception, fails), outcome.output
    return outcome.stdout


def test_11_2_this_repository_names_aliases_and_no_models(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert (
        printed("validate", "projector", "streams", "--config", str(SHIPPED), "--allow", "deploy/llm-allow.yaml") == ""
    )


def test_validate_tells_each_place_and_fails(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.py").write_text('x = 1\nm = "groq/x"')
    assert printed("validate", ".", fails=HardWiredModelError) == "a.py:2: groq/x\n"
    assert (HardWiredModelError.exit_status, ConfigError.exit_status) == (1, 2)
    Path("allow.yaml").write_text("- {path: a.py, reason: a test}\n- {path: b.py, reason: none}")
    assert "allow.yaml:2: allows b.py" in printed("validate", ".", "--allow", "allow.yaml", fails=HardWiredModelError)
    printed("validate", "a.py", "--allow", "allow.yaml")
    for wrong in (["nowhere"], [".", "--config", "nowhere.yaml"]):
        printed("validate", *wrong, fails=ConfigError)


def test_L1_L2_the_process_says_by_its_status_what_was_found(tmp_path: Path):
    (tmp_path / "a.py").write_text('m = "google/gemini-2.5-flash-lite"')
    (tmp_path / "b.py").write_text('m = "mana/x"')
    (tmp_path / "allow.yaml").write_text("- {path: a.py, reason: a test}\n- {path: b.py, reason: none}")
    commands = [["a.py"], ["b.py"], ["nowhere"], [".", "--allow", "allow.yaml"]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "projector", "llm", "validate", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        for words in commands
    ]
    assert [process.wait(30) for process in processes] == [1, 0, 2, 1]


def test_aliases_resolve_and_check_read_the_file_as_the_service_does(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PROJECTOR_LLM_CONFIG", str(SHIPPED))
    monkeypatch.setenv("GROQ_API_KEY", "k")
    told = [orjson.loads(line) for line in printed("aliases", "--json").splitlines()]
    assert [line["alias"] for line in told if line["default"]] == ["mana/fast-text"]
    assert [entry["configured"] for entry in told[0]["chain"]] == [True, True, False]
    assert printed("resolve", "mana/vision").splitlines()[1].startswith("google/")
    printed("resolve", "mana/nope", fails=UnknownAliasError)
    *warnings, last = [orjson.loads(line) for line in printed("check", "--json").splitlines()]
    assert last["valid"]
    assert {"warning": "openrouter: OPENROUTER_API_KEY is not set: never asked"} in warnings
    (tmp_path / "bad.yaml").write_text("aliases:\n  mana/x: {chain: x}\n")
    with pytest.raises(AliasConfigError, match=r"bad.yaml:2: aliases.mana/x.chain: chain must be a list"):
        printed("check", str(tmp_path / "bad.yaml"))


async def test_check_live_compares_chains_with_what_providers_offer():
    async with Upstream(answer()) as p1, service("  mana/x: {chain: [p1/m1, p1/retired]}", p1=p1) as client:
        told = await asyncio.to_thread(printed, "check", str(client.router.registry.path), "--live")
    assert "p1/retired: p1 does not list this model" in told


async def test_reload_and_health_speak_to_the_running_service(monkeypatch):
    monkeypatch.setenv("PROJECTOR_SERVICE_KEY", KEY)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with Upstream(answer()) as p1, service(p1=p1) as client:
        told = await asyncio.to_thread(printed, "reload", "--url", client.url)
        assert told.endswith("generation 1 replaced by 2\n")
        for _ in range(2):
            client.router.breaker.mark_unhealthy("p1", "down")
        told = await asyncio.to_thread(printed, "health", "--url", client.url)
        assert re.search(r"unhealthy\n  p1 +open, for \d+ s more \(call\)  down", told)
        replace(client.router.registry.path, "[p1/m1]", "[")
        with pytest.raises(AliasConfigError):
            await asyncio.to_thread(printed, "reload", "--url", client.url)
        monkeypatch.setenv("PROJECTOR_SERVICE_KEY", "another")
        with pytest.raises(ConfigError, match="401"):
            await asyncio.to_thread(printed, "health", "--url", client.url)
    with pytest.raises(ConfigError, match="ClientConnectorError"):
        await asyncio.to_thread(printed, "health", "--url", client.url)
