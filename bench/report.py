"""What a benchmark prints: one JSON object a line, or a table."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Report:
    """Collects the figures of one benchmark."""

    bench: str
    as_json: bool
    rows: list[tuple[str, float, str, dict[str, Any]]] = field(default_factory=list)

    def add(self, measure: str, value: float, unit: str, **settings: Any) -> None:
        """One figure: what was measured, its value, its unit, and the settings under which it holds."""
        self.rows.append((measure, value, unit, settings))
        if self.as_json:
            line = {"bench": self.bench, "measure": measure, "value": value, "unit": unit, "settings": settings}
            print(orjson.dumps(line).decode(), flush=True)
        else:
            told = " ".join(f"{key}={value}" for key, value in settings.items())
            print(f"{self.bench:<10} {measure:<36} {value:>14,.3f} {unit:<10} {told}", flush=True)

    def progress(self, text: str) -> None:
        """A line for whoever waits, on stderr."""
        print(text, file=sys.stderr, flush=True)


def percentile(ordered: list[float], percent: int) -> float:
    """Of values in order, the smallest first."""
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]
