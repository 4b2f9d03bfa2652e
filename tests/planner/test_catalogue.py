from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from importlib.resources import files

import orjson
import pytest

from projector.planner.catalogue import CATALOGUE, PLANNABLE, catalogue_of
from projector.planner.schema import TYPES
from projector.planner.tools import NAME, function_schema

ENTRIES = orjson.loads(files("projector.planner").joinpath("tools.json").read_bytes())
PROPOSED = {tool.name for tool in CATALOGUE if tool.default_policy == "propose"}

# The reference's counts of (propose, auto) per module.
COUNTS = {
    "todo": (3, 2), "calendar": (1, 1), "notes": (4, 1), "places": (2, 2), "drink": (1, 2), "food": (0, 2),
    "news": (1, 0), "articles": (4, 2), "news-research": (1, 0), "journal": (1, 0), "habits": (2, 1), "myday": (0, 1),
    "goals": (4, 2), "contacts": (1, 1), "mood": (1, 2), "finance": (1, 2), "times": (2, 3), "wetter": (0, 2),
    "events": (1, 1), "quiz": (5, 3), "invoices": (2, 2), "library": (3, 1), "broadcast": (1, 2), "website": (6, 3),
    "writing": (5, 3), "comic": (5, 2), "augur": (2, 3), "lasts": (3, 2),
}  # fmt: skip
# Of name, module, default policy, and each parameter's name, type, need and enum, as the reference has them.
FACTS = "d6fae69be85e829f91862d87b4c16d3683fe1b827f121b394944d478e5c40869"


def test_the_catalogue_has_the_modules_and_counts_of_the_reference():
    counts = Counter((tool.module, tool.default_policy) for tool in CATALOGUE)
    assert {module: (counts[module, "propose"], counts[module, "auto"]) for module, _ in counts} == COUNTS
    assert (len(CATALOGUE), len(PROPOSED), len(COUNTS)) == (110, 62, 28)


def test_names_parameters_and_enums_are_those_of_the_reference():
    facts = [
        [
            tool.name,
            tool.module,
            tool.default_policy,
            [[p.name, p.schema["type"], p.required, p.schema.get("enum", [])] for p in tool.parameters],
        ]
        for tool in sorted(CATALOGUE, key=lambda tool: tool.name)
    ]
    text = json.dumps(facts, ensure_ascii=False, sort_keys=True)
    assert hashlib.sha256(text.encode()).hexdigest() == FACTS


def test_f6_the_whole_catalogue_converts():
    for tool in CATALOGUE:
        function = function_schema(tool)["function"]
        assert NAME.fullmatch(function["name"])
        assert function["parameters"]["type"] == "object"
        assert {p["type"] for p in function["parameters"]["properties"].values()} <= TYPES.keys()


def test_f7_names_are_unique_and_so_are_their_aliases():
    names = [name for tool in CATALOGUE for name in (tool.name, *tool.aliases)]
    assert len(names) == len(set(names))


def test_every_tool_and_every_parameter_is_described():
    assert all(tool.name and tool.module and tool.description for tool in CATALOGUE)
    assert all(parameter.schema["description"] for tool in CATALOGUE for parameter in tool.parameters)


def test_the_server_offers_every_write_and_no_read():
    """The reference offers exactly what it proposes. Effects put right the five tools that it files wrongly."""
    offered = {tool.name for tool in PLANNABLE}
    assert PROPOSED - offered == {"research_news"}
    assert offered - PROPOSED == {"log_drink", "log_meal", "import_articles_from_urls", "suggest_lasts"}


def test_the_order_of_the_file_changes_nothing():
    shuffled = list(ENTRIES)
    random.Random(7).shuffle(shuffled)
    assert shuffled != ENTRIES
    turned = [dict(reversed(entry.items())) for entry in shuffled]
    assert catalogue_of(turned) == CATALOGUE


GOOD = {
    "name": "ping",
    "module": "m",
    "description": "d",
    "defaultPolicy": "auto",
    "effect": "read",
    "parameters": [{"name": "p", "type": "string", "required": True, "description": "d"}],
}
P = GOOD["parameters"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "Ping"}, "no name of a tool"),
        ({"name": ""}, "no name of a tool"),
        ({"module": ""}, "lacks its name, module or description"),
        ({"description": ""}, "lacks its name, module or description"),
        ({"defaultPolicy": "deny"}, "unknown default policy"),
        ({"effect": "harmless"}, "unknown default policy or effect"),
        ({"aliases": ["pong"]}, "more than one tool is called pong"),
        ({"parameters": [P | {"type": "fruit"}]}, "Unsupported parameter type: fruit"),
        ({"parameters": [P | {"description": ""}]}, "is not described"),
        ({"parameters": [P | {"enum": []}]}, "an enum needs strings"),
        ({"parameters": [P | {"minimum": 1}]}, "unsupported keywords of a string: minimum"),
        ({"parameters": [P | {"format": "email"}]}, "unsupported format: email"),
        ({"parameters": [P | {"pattern": "[a-z]"}]}, "covers the whole string"),
        ({"parameters": [P | {"type": "array"}]}, "Unsupported parameter type: None"),
        ({"parameters": [P, P]}, "has a parameter twice"),
    ],
)
def test_an_entry_that_is_amiss_is_refused(change, message):
    assert len(catalogue_of([GOOD])) == 1
    with pytest.raises(ValueError, match=message):
        catalogue_of([GOOD | change, GOOD | {"name": "pong"}])
