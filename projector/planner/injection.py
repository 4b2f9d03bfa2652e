"""Marks of text that was written to steer the model rather than to inform it.

A mark is a reason to warn, never a proof: the words also stand in honest texts. Time grows linearly with the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal

MIN_UNITS = 16
"""Shorter strings (in UTF-16 units) are not looked at."""

Marker = Literal["ignore-previous", "new-persona", "system-tag", "template", "system-fence"]

# White space and line ends as devices' regular expressions know them.
_SPACE = r"[\t\n\v\f\r \u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff]*"
_LINE_END = re.compile("[\n\r\u2028\u2029]")


def _template(text: str) -> bool:
    # `{{.+}}`, without its quadratic time over many opening braces.
    return any(line.rfind("}}") >= line.find("{{") + 3 for line in _LINE_END.split(text) if "{{" in line)


def _pattern(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.IGNORECASE | re.ASCII)
    return lambda text: compiled.search(text) is not None


_MARKS: dict[Marker, tuple[str, Callable[[str], bool]]] = {
    "ignore-previous": ("previous", _pattern(r"ignore (?:all |the )?previous (?:instructions|messages)")),
    "new-persona": (
        "you are now",
        _pattern("you are now [^\n\r\u2028\u2029]{0,40}(?:assistant|gpt|claude|gemini)"),
    ),
    "system-tag": ("system", _pattern(rf"<{_SPACE}system\b")),
    "template": ("{{", _template),
    "system-fence": ("```", _pattern(rf"```{_SPACE}system")),
}
"""With each mark, what every text with it holds: most texts hold nothing of the kind, which is quick to see."""


def marker_in(value: object) -> Marker | None:
    """The first mark of the first string that has one, depth first through arrays and the values of objects."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if _units(item) >= MIN_UNITS and (marker := _mark(item)):
                return marker
        elif isinstance(item, dict):
            waiting.extend(reversed(item.values()))
        elif isinstance(item, list):
            waiting.extend(reversed(item))
    return None


def _mark(text: str) -> Marker | None:
    lower = text.lower()
    return next((marker for marker, (part, is_in) in _MARKS.items() if part in lower and is_in(text)), None)


def _units(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text[:MIN_UNITS])
