from __future__ import annotations

import os

# The environment of whoever runs the tests must not leak into them, except for the servers they name.
KEPT = {"PROJECTOR_DATABASE_URL", "PROJECTOR_ADMIN_DATABASE_URL", "PROJECTOR_KAFKA_BOOTSTRAP_SERVERS"}
KEPT |= {"PROJECTOR_CACHE_DIR", "PROJECTOR_PG_BINDIR", "PROJECTOR_PG_VERSION"}
for name in [name for name in os.environ if name.startswith("PROJECTOR_") and name not in KEPT]:
    del os.environ[name]

pytest_plugins = [
    "tests.fixtures.stack",
    "tests.fixtures.settings",
    "tests.fixtures.profiles",
]
