"""Jars are fetched once, whole, and only with the bytes that are pinned."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from threading import Event, Thread

import pytest

from projector.embedded.jars import PIN_FILE, Pin, kafka_jars, read_pins
from projector.embedded.ports import free_port
from projector.errors import ChecksumError, FetchError

JARS = {
    PurePosixPath("org/example/one/1.0/one-1.0.jar"): b"one" * 50_000,
    PurePosixPath("org/example/deep/two_2.13/2.1/two_2.13-2.1.jar"): b"two" * 70_000,
}
PINS = [Pin(hashlib.sha256(content).hexdigest(), path) for path, content in JARS.items()]


@dataclass
class Repository:
    """A Maven repository on loopback that counts what it is asked for."""

    folder: Path
    asked: Counter[str] = field(default_factory=Counter)
    cut_short: bool = False

    def write(self, path: PurePosixPath, content: bytes) -> None:
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(content)


class Handler(SimpleHTTPRequestHandler):
    def __init__(self, *args, repository: Repository) -> None:
        self.repository = repository
        super().__init__(*args, directory=str(repository.folder))

    def do_GET(self) -> None:
        self.repository.asked[self.path.lstrip("/")] += 1
        super().do_GET()

    def copyfile(self, source, outputfile) -> None:
        outputfile.write(source.read(1000) if self.repository.cut_short else source.read())

    def log_message(self, *args) -> None:
        pass


@pytest.fixture
def settings_of_jgo(tmp_path, monkeypatch):
    """Writes the settings that jgo reads, with this as the repository; the local Maven repository is an empty one."""

    def write(url: str) -> None:
        (tmp_path / "jgo.conf").write_text(f"[repositories]\ncentral = {url}\n")

    monkeypatch.setenv("JGO_CONFIG_FILE", str(tmp_path / "jgo.conf"))
    monkeypatch.setenv("M2_REPO", str(tmp_path / "m2"))
    return write


@pytest.fixture
def repository(tmp_path, settings_of_jgo) -> Iterator[Repository]:
    result = Repository(tmp_path / "repository")
    for path, content in JARS.items():
        result.write(path, content)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, repository=result))
    thread = Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    settings_of_jgo(f"http://127.0.0.1:{server.server_port}")
    yield result
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(cache: Path, lines: list[str] | None = None, pins: list[Pin] = PINS) -> list[Path]:
    return kafka_jars(cache, (lines if lines is not None else []).append, Event(), pins)


def test_jars_are_fetched_once_with_progress(tmp_path, repository):
    lines: list[str] = []
    jars = fetch(tmp_path / "cache", lines)
    assert [jar.read_bytes() for jar in jars] == list(JARS.values())
    assert lines[0] == f"Kafka: fetching 2 jars into {tmp_path / 'cache'} (once)"
    assert lines[-1].endswith("every jar as pinned")
    lines.clear()
    assert fetch(tmp_path / "cache", lines) == jars
    assert lines == []
    assert {repository.asked[str(path)] for path in JARS} == {1}


def test_a_half_written_cache_is_completed_and_only_what_is_wrong_is_fetched_again(tmp_path, repository):
    cache = tmp_path / "cache"
    one, two = fetch(cache)
    one.write_bytes(one.read_bytes()[:1000])
    (two.parent / (two.name + ".part")).write_bytes(b"left by a process that was killed")
    (cache / "fetch-killed" / "org").mkdir(parents=True)
    lines: list[str] = []
    fetch(cache, lines)
    assert lines[0] == f"Kafka: {one} is damaged, fetching it again"
    assert one.read_bytes() == JARS[PINS[0].path]
    assert sorted(repository.asked[str(path)] for path in JARS) == [1, 2]
    assert not list(cache.glob("fetch-*"))


def test_a_jar_with_other_bytes_is_refused_and_not_kept(tmp_path, repository):
    repository.write(PINS[1].path, b"something else")
    with pytest.raises(ChecksumError, match=r"two_2\.13-2\.1\.jar is refused: its SHA-256 is [0-9a-f]{64}, pinned is"):
        fetch(tmp_path / "cache")
    assert not (tmp_path / "cache" / "jars" / PINS[1].path).exists()
    assert not list((tmp_path / "cache").rglob("*.part"))


def test_the_local_maven_repository_serves_what_it_has_under_the_same_check(tmp_path, repository):
    local = tmp_path / "m2" / PINS[0].path
    local.parent.mkdir(parents=True)
    local.write_bytes(b"something else")
    with pytest.raises(ChecksumError, match="Delete the file") as caught:
        fetch(tmp_path / "cache")
    assert str(local) in caught.value.message
    local.write_bytes(JARS[PINS[0].path])
    fetch(tmp_path / "cache")
    assert repository.asked[str(PINS[0].path)] == 0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_download_that_breaks_off_is_an_error_and_the_next_start_completes_it(tmp_path, repository):
    repository.cut_short = True
    with pytest.raises(FetchError):
        fetch(tmp_path / "cache")
    assert not list((tmp_path / "cache" / "jars").rglob("*.jar"))
    repository.cut_short = False
    fetch(tmp_path / "cache")


def test_without_network_the_error_names_file_cache_and_remedy_in_one_line(tmp_path, settings_of_jgo):
    settings_of_jgo(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(FetchError) as caught:
        fetch(tmp_path / "cache")
    text = str(caught.value)
    assert text.count("\n") == 0
    for part in (
        ".jar into",
        str(tmp_path / "cache"),
        "Connection refused",
        "KAFKA_HOME",
        "PROJECTOR_KAFKA_BOOTSTRAP_SERVERS",
    ):
        assert part in text


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(FetchError, match=str(tmp_path / "cache")):
        fetch(tmp_path / "cache")


def test_whoever_fetches_at_the_same_time_waits_and_fetches_nothing_twice(tmp_path, repository):
    barrier = threading.Barrier(4)

    def job() -> None:
        barrier.wait()
        fetch(tmp_path / "cache")

    threads = [Thread(target=job) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {repository.asked[str(path)] for path in JARS} == {1}
    assert all((tmp_path / "cache" / "jars" / path).exists() for path in JARS)


def test_every_pinned_path_is_in_the_layout_of_a_maven_repository():
    pins = read_pins()
    assert ("org.apache.kafka", "kafka_2.13", "4.4.0") in [pin.coordinates for pin in pins]
    for pin in pins:
        group, artifact, version = pin.coordinates
        assert pin.path == PurePosixPath(group.replace(".", "/"), artifact, version, f"{artifact}-{version}.jar")
        assert len(bytes.fromhex(pin.sha256)) == 32
    assert len({pin.path for pin in pins}) == len(PIN_FILE.read_text().splitlines())
