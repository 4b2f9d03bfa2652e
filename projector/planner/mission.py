"""A mission as the planner sees it: the derived record with every field brought to its type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from projector.planner.ciphertext import is_ciphertext

DEFAULT_AGENT = "legacy:ai-default"
"""The id of every user's default agent; a mission that names none belongs to it."""
MAX_AGENT_ID = 256
"""Characters. The ledger keeps no more of an id, as index entries have an end: an agent with a longer one is none."""


TEXTS = ("title", "conceptMarkdown", "objective")


@dataclass(frozen=True, slots=True)
class Mission:
    """Texts are '' where the record has none; `iterations` holds only the elements that are objects.

    `cadence` and `inputs` are as stored.
    """

    title: str
    concept: str
    objective: str
    cadence: Any
    state: str
    agent_id: str
    iterations: tuple[Mapping[str, Any], ...]
    inputs: Any = None
    mistyped: str | None = None
    """The first field of the mission's text that holds something else."""

    @property
    def encrypted_field(self) -> str | None:
        """The first field of the mission's text that only its owner's devices can read."""
        return next((name for name, text in zip(TEXTS, self.texts, strict=True) if is_ciphertext(text)), None)

    @property
    def texts(self) -> tuple[str, str, str]:
        return self.title, self.concept, self.objective

    @property
    def says_nothing(self) -> bool:
        return not any(text.strip() for text in self.texts)


def text(value: object) -> str:
    """Strings as they are, numbers as digits, everything else ''."""
    if isinstance(value, str):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return ""


def mission_of(record: Mapping[str, Any]) -> Mission:
    """Never raises: a field of another type than expected counts as missing."""
    agent_id = record.get("agentId")
    iterations = record.get("iterations")
    return Mission(
        title=text(record.get("title")),
        concept=text(record.get("conceptMarkdown")),
        objective=text(record.get("objective")),
        cadence=record.get("cadence"),
        state=text(record.get("state")),
        agent_id=agent_id if isinstance(agent_id, str) and agent_id else DEFAULT_AGENT,
        iterations=tuple(i for i in iterations if isinstance(i, Mapping)) if isinstance(iterations, list) else (),
        inputs=record.get("inputs"),
        mistyped=next((name for name in TEXTS if not _is_text(record.get(name))), None),
    )


def _is_text(value: object) -> bool:
    return value is None or isinstance(value, str) or text(value) != ""
