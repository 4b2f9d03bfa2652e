"""Faults of the views, of rebuilds and of retries, under one continuous load: `python -m tests.view_faults`."""

from __future__ import annotations
