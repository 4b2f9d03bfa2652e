"""Where the reference's own test cases are said to be there are tests of that name, and so it is with its metrics."""

from __future__ import annotations

import re
from pathlib import Path

from prometheus_client import REGISTRY

import projector.metrics  # noqa: F401 - registers them

ROOT = Path(__file__).parent.parent.parent
PLACE = re.compile(r"`(tests/[\w/]+\.py)?(?:::(\w+))?`")
NUMBERED: dict[str, tuple[str, range]] = {
    "tests/log/test_actor.py": ("A", range(1, 15)),
    "tests/planner/test_loop.py": ("L", range(1, 11)),
    "tests/planner/test_folding.py": ("L", range(11, 17)),
    "tests/planner/test_reminders.py": ("L", range(17, 22)),
    "tests/planner/test_compaction.py": ("C", range(1, 20)),
    "tests/planner/test_subagent.py": ("S", range(1, 15)),
    "tests/planner/test_tools.py": ("f", range(1, 6)),
    "tests/planner/test_catalogue.py": ("f", range(6, 8)),
}
"""Files that have the cases by their numbers; from any other a test has to be named."""
METRIC = re.compile(r"\b(?:mana_ai|projector|llm)_[a-z_]+_(?:total|seconds|rounds|turns)\b")
METRICS = [
    "http_requests_total",
    "http_request_duration_seconds",
    "ticks_total",
    "tick_duration_seconds",
    "plans_produced_total",
    "plans_written_back_total",
    "parse_failures_total",
    "mission_errors_total",
    "research_jobs_submitted_total",
    "research_jobs_completed_total",
    "research_jobs_failed_total",
    "research_jobs_pending_skips_total",
    "planner_request_duration_seconds",
    "snapshots_new_total",
    "snapshots_updated_total",
    "snapshot_rows_applied_total",
    "decrypts_total",
    "grant_scope_violations_total",
    "grant_skips_total",
    "agent_decisions_total",
    "tokens_used_total",
    "tool_calls_total",
    "planner_rounds",
    "provider_errors_total",
    "reminders_emitted_total",
    "compactions_triggered_total",
    "compacted_turns",
]


def section(title: str) -> str:
    """A section of docs/compatibility.md."""
    text = (ROOT / "docs" / "compatibility.md").read_text().partition(f"\n## {title}\n")[2]
    return text.partition("\n## ")[0]


def rows() -> dict[str, str]:
    """What is said of each group of cases."""
    text = section("Test cases of the reference")
    cells = [line.strip("| ").split(" | ") for line in text.partition("|---|---|\n")[2].splitlines()]
    return dict(cells)


def test_every_case_of_the_reference_is_a_test_here_or_has_a_reason():
    for cases, where in rows().items():
        file, places = "", PLACE.findall(where)
        assert any(filter(None, places)) or where.startswith("none: "), cases
        for named, name in places:
            file = named or file
            told = f"{cases}: {file}::{name}"
            assert name or file in NUMBERED, told
            assert not name or re.search(rf"def {name}\(", (ROOT / file).read_text()), told


def test_numbered_cases_are_found_by_their_number():
    for file, (letter, wanted) in NUMBERED.items():
        text = (ROOT / file).read_text()
        missing = [n for n in wanted if not re.search(rf"(?<![A-Za-z0-9]){letter}{n}(?![0-9])", text)]
        assert missing == [], f"{file}: {letter}{missing}"
    text = (ROOT / "tests/planner/test_subagent.py").read_text()
    assert [n for n in range(1, 15) if not re.search(rf"\bK{n}\b", text)] == []


def exported() -> set[str]:
    return {f"{family.name}_total" if family.type == "counter" else family.name for family in REGISTRY.collect()}


def test_every_metric_of_the_reference_is_exported_or_said_to_be_another():
    told = [line.strip("| ").split(" | ") for line in section("Metrics").splitlines() if line.startswith("| `")]
    theirs = {name for row in told for name in METRIC.findall(row[0])}
    ours = {name for row in told for name in METRIC.findall(row[1])}
    names = {f"mana_ai_{name}" for name in METRICS}
    assert names - exported() == theirs - exported()
    assert theirs <= names
    assert ours <= exported()
