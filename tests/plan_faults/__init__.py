"""Kills at every step of a run, whatever the model does: `python -m tests.plan_faults` runs them all."""

from __future__ import annotations
