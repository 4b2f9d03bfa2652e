"""Missions from due to done: scheduler, run ledger, gates, prompt, tool loop, iteration, write-back."""

from __future__ import annotations
