"""Benchmarks: repeatable comparisons, run by hand, never as timed tests."""

from __future__ import annotations
