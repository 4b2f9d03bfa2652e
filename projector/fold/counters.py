"""What a fold noticed on its way. None of it changes a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Counts of one fold; the caller adds them to its metrics."""

    changes: int = 0
    unstamped_keys: int = 0
    """Keys of updates without a usable stamp: they lose against every stamped write."""
    invalid_stamps: int = 0
    """Stamps that are present and no instant: treated as missing. One for neighbouring keys that share it."""
    future_stamps: int = 0
    """Writes stamped more than FUTURE_TOLERANCE_US after their row's `created_at`: kept as they are."""
    null_data: int = 0
    """Rows whose data was null."""
    stripped_keys: int = 0
    """Keys such as `__fieldMeta` in updates that were left out. `id` and `updatedAt` in inserts are not counted."""
    unnamed_items: int = 0
    """Elements of `iterations` or of a plan that are no object with an id: they cannot be folded."""
    repeated_items: int = 0
    """Elements whose id comes again later in the same array: the last one counts."""
    cut_items: int = 0
    """Elements, fields and values beyond the limits."""
    odd_arrays: int = 0
    """Writes to `iterations` or of a plan that are no array, and keys below `iterations`."""
