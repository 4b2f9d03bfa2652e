"""A streaming projector: one append-only change log in, provable views and planned missions out."""

from __future__ import annotations

__version__ = "0.1.0"
