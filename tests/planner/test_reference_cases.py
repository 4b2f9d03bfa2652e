"""Where the reference's own test cases are said to be, there are tests of that name."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PLACE = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def rows() -> dict[str, str]:
    """What docs/compatibility.md says of each group of cases."""
    text = (ROOT / "docs" / "compatibility.md").read_text().partition("\n## Test cases of the reference\n")[2]
    cells = [line.strip("| ").split(" | ") for line in text.partition("|---|---|\n")[2].splitlines()]
    return dict(cells)


def test_every_case_of_the_reference_is_a_test_here_or_has_a_reason():
    for cases, where in rows().items():
        places = PLACE.findall(where)
        assert places or where.startswith("none: "), cases
        for file, name in places:
            assert f"def {name or 'test_'}" in (ROOT / file).read_text(), f"{cases}: {file}::{name}"


def test_numbered_cases_are_found_by_their_number():
    numbers = {
        "test_loop.py": ["L", range(1, 11)],
        "test_folding.py": ["L", range(11, 17)],
        "test_reminders.py": ["L", range(17, 22)],
        "test_compaction.py": ["C", range(1, 20)],
        "test_subagent.py": ["S", range(1, 15)],
        "test_tools.py": ["f", range(1, 6)],
        "test_catalogue.py": ["f", range(6, 8)],
    }
    for file, (letter, wanted) in numbers.items():
        text = (Path(__file__).parent / file).read_text()
        missing = [n for n in wanted if not re.search(rf"(?<![A-Za-z0-9]){letter}{n}(?![0-9])", text)]
        assert missing == [], f"{file}: {letter}{missing}"
    text = (Path(__file__).parent / "test_subagent.py").read_text()
    assert [n for n in range(1, 15) if not re.search(rf"\bK{n}\b", text)] == []
