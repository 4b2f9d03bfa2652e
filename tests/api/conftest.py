from __future__ import annotations

from tests.planner.conftest import world

__all__ = ["world"]
