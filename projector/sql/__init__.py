"""SQL kept in files: numbered migrations, and named queries."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import LiteralString


@cache
def query(name: str) -> LiteralString:
    """The text of `queries/<name>.sql`; the files ship with the package, so their text counts as literal."""
    return (files(__name__) / "queries" / f"{name}.sql").read_text("utf-8")
