"""Servers as jars from Maven coordinates, fetched once into the user's cache and checked byte by byte.

`kafka-jars.sha256` and `postgres-jars.sha256` list them in the format of `sha256sum`, with paths of the Maven
repository layout, so that `sha256sum -c` in the cache's `jars` folder checks the same. `python -m
projector.embedded.pin` writes them.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Event, Lock
from typing import TYPE_CHECKING

from projector.embedded.locks import waiting_lock
from projector.embedded.process import Halted
from projector.errors import ChecksumError, FetchError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

PIN_FILE = Path(__file__).with_name("kafka-jars.sha256")
FETCH_AT_ONCE = 4
HTTP_TIMEOUT_S = 30
REPORT_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Pin:
    """One jar: its path in a Maven repository, `group/…/artifact/version/file`, and what its bytes must be."""

    sha256: str
    path: PurePosixPath

    @property
    def coordinates(self) -> tuple[str, str, str]:
        *group, artifact, version, _ = self.path.parts
        return ".".join(group), artifact, version


def read_pins(file: Path = PIN_FILE) -> list[Pin]:
    lines = file.read_text("ascii").splitlines()
    return [Pin(sha256, PurePosixPath(path)) for sha256, path in (line.split() for line in lines)]


def digest(file: Path) -> str:
    """SHA-256 of a file, empty when there is none."""
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return ""


def kafka_jars(
    cache_dir: Path, report: Callable[[str], None], halt: Event, pins: list[Pin] | None = None
) -> list[Path]:
    """Apache Kafka's jars, as `checked_jars` has them."""
    return checked_jars("Kafka", read_pins() if pins is None else pins, cache_dir, report, halt)


def checked_jars(what: str, pins: list[Pin], cache_dir: Path, report: Callable[[str], None], halt: Event) -> list[Path]:
    """The jars of `what`, a name for people; fetches those that are missing or damaged.

    Processes that fetch at once wait for each other. Raises FetchError, ChecksumError, or Halted.
    """
    jars = cache_dir / "jars"
    try:
        jars.mkdir(parents=True, exist_ok=True)
        waiting = partial(report, f"{what}: another process is fetching into {cache_dir}, waiting for it")
        with waiting_lock(cache_dir / "jars.lock", halt, waiting):
            missing = []
            for pin in pins:
                found = digest(jars / pin.path)
                if found and found != pin.sha256:
                    report(f"{what}: {jars / pin.path} is damaged, fetching it again")
                if found != pin.sha256:
                    missing.append(pin)
            if missing:
                _fetch(what, missing, cache_dir, report, halt)
    except OSError as error:
        raise FetchError(f"cannot keep the jars of {what} in {cache_dir}: {error.strerror or error}") from error
    return [jars / pin.path for pin in pins]


def _fetch(what: str, pins: list[Pin], cache_dir: Path, report: Callable[[str], None], halt: Event) -> None:
    for left in cache_dir.glob("fetch-*"):  # by a process that was killed: we hold the lock
        shutil.rmtree(left)
    report(f"{what}: fetching {_jars(len(pins))} into {cache_dir} (once)")
    progress = _Progress(what, len(pins), report)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=cache_dir) as staging:
        context = _maven(Path(staging), progress)
        with ThreadPoolExecutor(FETCH_AT_ONCE) as pool:
            jobs = [pool.submit(_fetch_one, context, pin, cache_dir, halt, progress) for pin in pins]
            wait(jobs, return_when=FIRST_EXCEPTION)
            pool.shutdown(wait=True, cancel_futures=True)
        for job in jobs:
            if not job.cancelled():
                job.result()
    report(f"{what}: fetched {progress.megabytes():.0f} MB, every jar as pinned")


def _maven(staging: Path, progress: _Progress) -> MavenContext:
    """Repositories as jgo's settings on this machine name them; the local Maven repository serves what it has."""
    try:
        from jgo.config import GlobalSettings
        from jgo.constants import MAVEN_CENTRAL_URL
        from jgo.maven import MavenContext, PythonResolver
    except ModuleNotFoundError as error:
        remedy = "Install the package with its extra `embedded`, or set KAFKA_HOME."
        raise FetchError(f"jars cannot be fetched: the package {error.name} is missing", remedy) from error

    settings = GlobalSettings.load()
    return MavenContext(
        resolver=PythonResolver(progress_callback=progress.of_file),
        repo_cache=staging,
        local_repos=[settings.repo_cache],
        remote_repos={"central": MAVEN_CENTRAL_URL, **settings.repositories},
        timeout=HTTP_TIMEOUT_S,
    )


def _fetch_one(context: MavenContext, pin: Pin, cache_dir: Path, halt: Event, progress: _Progress) -> None:
    if halt.is_set():
        raise Halted
    group, artifact, version = pin.coordinates
    try:
        source = context.project(group, artifact).at_version(version).artifact().resolve()
    except Exception as error:  # jgo lets through those of requests, of the system, and its own
        raise FetchError(f"could not fetch {pin.path.name} into {cache_dir}: {_reason(error)}") from error
    # What is checked is what is kept: the copy is hashed, then renamed.
    target = cache_dir / "jars" / pin.path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shutil.copyfile(source, part)
    found = digest(part)
    if found != pin.sha256:
        part.unlink()
        fetched = source.is_relative_to(context.repo_cache)
        raise ChecksumError(
            f"{pin.path.name if fetched else source} is refused: its SHA-256 is {found}, pinned is {pin.sha256}",
            "Start again; if it comes back the same, do not trust the Maven repository that serves it."
            if fetched
            else None,
        )
    part.replace(target)
    progress.finish_file()


def _reason(error: BaseException) -> str:
    """The innermost cause in one line: libraries wrap "connection refused" several times."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return " ".join(str(error).split())[:200] or type(error).__name__


def _jars(count: int) -> str:
    return f"{count} jar{'s' if count != 1 else ''}"


class _Progress:
    """Counts over all threads; reports at most every half second."""

    def __init__(self, what: str, files: int, report: Callable[[str], None]) -> None:
        self._what = what
        self._files, self._done, self._bytes = files, 0, 0
        self._report = report
        self._next = time.monotonic() + REPORT_EVERY_S
        self._lock = Lock()

    @contextmanager
    def of_file(self, _name: str, _size: int) -> Iterator[Callable[[int], None]]:
        yield self._count

    def finish_file(self) -> None:
        with self._lock:
            self._done += 1

    def megabytes(self) -> float:
        return self._bytes / 1e6

    def _count(self, received: int) -> None:
        with self._lock:
            self._bytes += received
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + REPORT_EVERY_S
            line = f"{self._what}: {self._done} of {_jars(self._files)}, {self.megabytes():.0f} MB"
        self._report(line)
