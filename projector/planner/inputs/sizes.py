"""Lengths as devices count them: in UTF-16 units."""

from __future__ import annotations

CUT_MARK = "…"


def units(text: str) -> int:
    """How many UTF-16 units the text has."""
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


def first(text: str, most: int) -> str:
    """The first `most` units, one less where that would split a character."""
    return text.encode("utf-16-le", "surrogatepass")[: 2 * most].decode("utf-16-le", "ignore")


def cut(text: str, most: int) -> str:
    """The text, or its first `most` units and a mark that it goes on."""
    return text if units(text) <= most else first(text, most) + CUT_MARK
