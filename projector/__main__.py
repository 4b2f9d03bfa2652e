"""`python -m projector` is the command `projector`."""

from __future__ import annotations

from projector.cli import main

main()
