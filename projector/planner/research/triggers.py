"""Whether a mission's text asks for research."""

from __future__ import annotations

import re

from projector.planner.mission import Mission

# Word boundaries are ASCII, as on devices. A shallow trigger is the beginning of a word, a deep one is whole words.
_SHALLOW = re.compile(
    r"\b(?:recherchier|research|news|finde|suche|aktuelle|neueste|today|history|historisch|on this day)",
    re.IGNORECASE | re.ASCII,
)
_DEEP = re.compile(
    r"\b(?:deep research|tiefe recherche|umfassende recherche|hintergrundrecherche|deep dive)\b",
    re.IGNORECASE | re.ASCII,
)


def wants_deep(mission: Mission) -> bool:
    return bool(_DEEP.search(mission.objective) or _DEEP.search(mission.concept))


def wants_shallow(mission: Mission) -> bool:
    """Also true of a mission that asks for deep research: a little is more than nothing."""
    return bool(_SHALLOW.search(mission.objective) or _SHALLOW.search(mission.concept)) or wants_deep(mission)
