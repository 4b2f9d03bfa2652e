from __future__ import annotations

import pytest

from projector.planner.mission import mission_of
from projector.planner.research.triggers import wants_deep, wants_shallow


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Newsletter schreiben", True),
        ("Finden wir", True),
        ("newspaper", True),
        ("suchen", True),
        ("die AKTUELLEN Preise", True),
        ("historyczny", True),
        ("Was geschah on this day?", True),
        ("(recherchiere)", True),
        ("ünews", True),  # a boundary is ASCII
        ("Versuche das", False),
        ("untersuche", False),
        ("untersuchen", False),
        ("Prehistory", False),
        ("Heute", False),
        ("Befinden", False),
        ("Recherche", False),
        ("_news", False),
        ("new\u017f", False),
        ("on  this day", False),
    ],
)
def test_shallow_research_is_asked_for_by_the_beginning_of_a_word(text, asks):
    assert wants_shallow(mission_of({"objective": text})) is asks
    assert wants_shallow(mission_of({"conceptMarkdown": text})) is asks


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("Mach einen Deep Dive zu Tomaten", True),
        ("tiefe Recherche", True),
        ("eine umfassende Recherche bitte", True),
        ("Hintergrundrecherche.", True),
        ("deep research", True),
        ("deep-dive", False),
        ("deep researcher", False),
        ("deep  research", False),
        ("Hintergrundrecherchen", False),
        ("news", False),
    ],
)
def test_deep_research_is_asked_for_by_whole_phrases(text, asks):
    assert wants_deep(mission_of({"objective": text})) is asks
    assert wants_deep(mission_of({"conceptMarkdown": text})) is asks


def test_what_asks_for_deep_research_asks_for_shallow_too_where_there_is_no_other():
    assert wants_shallow(mission_of({"objective": "tiefe Recherche"}))
