"""The clock of a device: it may be wrong, and it may be set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from projector.fold.stamps import format_instant
from projector.log.clock import now_us


@dataclass(slots=True)
class DeviceClock:
    """Shows `now()` (µs since the Unix epoch) shifted by `offset_us`; change the offset to set the clock."""

    offset_us: int = 0
    now: Callable[[], int] = now_us

    def text(self) -> str:
        """As devices stamp: `YYYY-MM-DDTHH:MM:SS.mmmZ`."""
        return format_instant(self.now() + self.offset_us)
