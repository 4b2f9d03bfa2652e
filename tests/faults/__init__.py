"""Faults that must lose and double nothing, under one continuous load: `python -m tests.faults` runs them all."""

from __future__ import annotations
