"""What retention leaves of a run's brief; apart from how briefs are made, for who only shows one."""

from __future__ import annotations

import hashlib
from typing import Any


def is_pruned(brief: dict[str, Any]) -> bool:
    """Whether retention has left the digests of the prompts alone."""
    return "user" not in brief


def prompt_digests(brief: dict[str, Any]) -> dict[str, str]:
    """SHA-256 of both prompts, in hexadecimal; they outlive the prompts."""
    names = ("system", "user")
    if is_pruned(brief):
        return {f"{name}Sha256": brief[f"{name}Sha256"] for name in names}
    return {f"{name}Sha256": hashlib.sha256(brief[name].encode()).hexdigest() for name in names}
