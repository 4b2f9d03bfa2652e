"""What follows from a failure: whether the next entry is asked, and whose failure it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from projector.llm.config import Policy

Blame = Literal["none", "provider", "model", "rate_limit", "not_found", "auth", "payment"]
"""none; a strike for the provider, or for the model; or that which is barred at once, for a time of its own."""
Action = Literal["next", "propagate"]


@dataclass(frozen=True, slots=True)
class Rule:
    """`again`: the same entry may be asked once more when no other is left."""

    action: Action
    blame: Blame = "none"
    again: bool = False


RULES: dict[str, Rule] = {
    "unreachable": Rule("next", "provider", again=True),
    "timeout": Rule("next", "provider"),
    "rate_limit": Rule("next", "rate_limit"),
    "upstream": Rule("next", "model", again=True),
    "protocol": Rule("next", "model"),
    "not_found": Rule("next", "not_found"),
    "context_length": Rule("next"),
    "auth": Rule("propagate", "auth"),
    "payment": Rule("propagate", "payment"),
    "blocked": Rule("propagate"),
    "bad_request": Rule("propagate"),
}


def action_of(kind: str, policy: Policy) -> Action:
    """An unknown kind goes to the caller: it is a fault of ours, and must be seen."""
    if kind == "auth":
        return policy.auth
    if kind == "payment":
        return policy.payment
    rule = RULES.get(kind)
    return rule.action if rule is not None else "propagate"


def may_repeat(kind: str) -> bool:
    rule = RULES.get(kind)
    return rule is not None and rule.again


def blame_of(kind: str) -> Blame:
    rule = RULES.get(kind)
    return rule.blame if rule is not None else "none"
