"""The event log: its changes, their places, their actors, and the topics that carry them."""

from __future__ import annotations
