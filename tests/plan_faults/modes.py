"""What the double does: each mode is mostly its name, and in part what an endpoint does on an ordinary day."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import orjson

from projector.embedded.scripted_llm import answer_to

Mode = Literal["normal", "slow", "fails", "rubbish", "twice"]
MODES: tuple[Mode, ...] = get_args(Mode)

QUICK_S = 0.03
TIMEOUT_S = 3.0
"""Of a call; a few answers of `slow` take longer."""
TOO_LARGE = 3 * 1024 * 1024

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """What goes over the wire, `times` in a row, up to byte `cut_at`; and what it should be worth to the asker.

    `tokens`: what is to be paid for it, as its usage says. `usable`: it can be stored as a step.
    """

    kind: str
    body: bytes = b""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    pause_s: float = QUICK_S
    cut_at: int | None = None
    times: int = 1
    tokens: int = 0
    usable: bool = False
    refused: bool = False

    @property
    def kept_open(self) -> bool:
        return self.cut_at is None


def answer(mode: Mode, request: Json, serial: int, numbers: random.Random) -> Reply:
    """The answer to one request; `serial` names it, and is what it costs."""
    completion = answer_to(request)
    completion["model"] = f"double/{serial}"
    completion["usage"] = {"prompt_tokens": serial - 1, "completion_tokens": 1, "total_tokens": 7}
    good = _good(mode, completion, serial)
    if mode == "slow":
        late = numbers.random() < 0.03
        return replace(
            good,
            usable=not late,
            tokens=0 if late else serial,
            pause_s=TIMEOUT_S + 1 if late else numbers.uniform(0.2, 0.9),
        )
    if mode == "fails" and numbers.random() < 0.45:
        return numbers.choice(FAILURES)(good)
    if mode == "rubbish" and numbers.random() < 0.6:
        return numbers.choice(RUBBISH)(completion, serial)
    if mode == "twice" and numbers.random() < 0.7:
        return numbers.choice(REPETITIONS)(request, completion, serial)
    return good


def _good(kind: str, completion: Json, serial: int) -> Reply:
    return Reply(kind, orjson.dumps(completion), tokens=serial, usable=True)


def _error(status: int, body: bytes = b"", **headers: str) -> Callable[[Reply], Reply]:
    def reply(good: Reply) -> Reply:
        return Reply(f"error {status}", body, status, {name.replace("_", "-"): v for name, v in headers.items()})

    return reply


def _cut(octets: int) -> Callable[[Reply], Reply]:
    def reply(good: Reply) -> Reply:
        return replace(good, kind=f"cut at {octets}", cut_at=octets, usable=False, tokens=0)

    return reply


def _refused(good: Reply) -> Reply:
    return Reply("refused", orjson.dumps({"detail": {"kind": "policy", "message": "no"}}), 400, refused=True)


# One refusal in ten: what is refused is not tried again.
FAILURES: tuple[Callable[[Reply], Reply], ...] = (
    _error(500),
    _error(502, b"<html>Bad Gateway</html>", content_type="text/html"),
    _error(503, retry_after="0.2"),
    _error(429, orjson.dumps({"detail": {"kind": "rate_limit", "message": "slow down"}}), retry_after="0.1"),
    _error(429),
    _cut(0),
    _cut(10),
    _cut(90),
    _cut(150),
    _refused,
)


# Rubbish


def _bytes(kind: str, body: bytes, **headers: str) -> Callable[[Json, int], Reply]:
    """No JSON of ours: nobody can tell what it cost."""

    def reply(completion: Json, serial: int) -> Reply:
        return Reply(kind, body, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return reply


def _half(completion: Json, serial: int) -> Reply:
    whole = orjson.dumps(completion)
    return Reply("half of the JSON", whole[: len(whole) // 2])


def _without_choice(kind: str, **changed: Any) -> Callable[[Json, int], Reply]:
    """It says what it costs, and holds nothing: paid, and of no use."""

    def reply(completion: Json, serial: int) -> Reply:
        return Reply(kind, orjson.dumps(completion | changed), tokens=serial)

    return reply


def _message(kind: str, change: Callable[[Json], Json], *, usable: bool = True) -> Callable[[Json, int], Reply]:
    def reply(completion: Json, serial: int) -> Reply:
        choice = completion["choices"][0]
        changed = completion | {"choices": [choice | change(choice)]}
        return Reply(kind, orjson.dumps(changed), tokens=serial, usable=usable)

    return reply


def _surrogate(completion: Json, serial: int) -> Reply:
    """Half of a character, which JSON can name and no text can hold."""
    return Reply("half a character", orjson.dumps(completion).replace(b"double/", b"\\ud800"))


def _usage(kind: str, usage: Any) -> Callable[[Json, int], Reply]:
    """Usable, but what it says of its price is none."""

    def reply(completion: Json, serial: int) -> Reply:
        return Reply(kind, orjson.dumps(completion | {"usage": usage}), usable=True)

    return reply


def _call(name: Any, arguments: Any, call_id: Any = "c1") -> Json:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _calls(*calls: Any, finish: Any = "tool_calls") -> Callable[[Json], Json]:
    return lambda choice: {
        "message": {"role": "assistant", "content": None, "tool_calls": list(calls)},
        "finish_reason": finish,
    }


DEEP = '{"title":' + "[" * 300 + "]" * 300 + "}"

RUBBISH: tuple[Callable[[Json, int], Reply], ...] = (
    _bytes("nothing", b""),
    _bytes("a page", b"<html>It works!</html>", content_type="text/html"),
    _bytes("no UTF-8", b'{"choices": "\xff\xfe"}'),
    _bytes("a list", b"[]"),
    _bytes("null", b"null"),
    _bytes("a number", b"17"),
    _bytes("too large", b" " * TOO_LARGE),
    _bytes("no gzip", b"not compressed at all", content_encoding="gzip"),
    _half,
    _surrogate,
    _without_choice("no choices", choices=[]),
    _without_choice("choices are null", choices=None),
    _without_choice("choice is a text", choices=["create_task"]),
    _message("message is a text", lambda choice: {"message": "create_task"}, usable=False),
    _message("calls are an object", lambda choice: {"message": {"tool_calls": {"a": 1}}}, usable=False),
    _message("call without a function", _calls({"id": "c1"}), usable=False),
    _message("content is a number", lambda choice: {"message": {"content": 17}}),
    _message("no content", lambda choice: {"message": {}, "finish_reason": 17}),
    _message("content that no database takes", lambda choice: {"message": {"content": "a\0b"}}),
    _message("unknown tools", _calls(_call("rm_rf", "{}"), _call("", "{}", "c2"))),
    _message("a name of another type", _calls(_call(17, "{}")), usable=False),
    _message("a name that no database takes", _calls(_call("create\0_task", "{}"))),
    _message("arguments of other types", _calls(_call("create_task", '{"title": {"a": [1]}, "dueDate": 17}'))),
    _message("arguments are no JSON", _calls(_call("create_task", '{"title": "x'), finish="length")),
    _message("arguments are a list", _calls(_call("create_task", [1, 2]))),
    _message("arguments are an object", _calls(_call("create_task", {"title": "Gießen"}))),
    _message("arguments that no database takes", _calls(_call("create_task", '{"title": "a\\u0000b\\ud800c"}'))),
    _message("arguments nested deep", _calls(_call("create_task", DEEP))),
    _message("arguments beyond any number", _calls(_call("create_task", '{"title": "x", "n": 1e999}'))),
    _message("too many calls", _calls(*(_call("create_task", '{"title": "T"}', f"c{n}") for n in range(30)))),
    _message(
        "ids of other types", _calls(_call("create_task", '{"title": "T"}', 17), _call("create_task", "{}", None))
    ),
    _usage("no usage", None),
    _usage("usage of other types", {"prompt_tokens": "12", "completion_tokens": True}),
    _usage("usage below nothing", {"prompt_tokens": -5, "completion_tokens": -1.5}),
)


# Twice


def _sent_again(request: Json, completion: Json, serial: int) -> Reply:
    """The same bytes once more, where the next answer on that connection would be."""
    return replace(_good("sent again", completion, serial), times=2)


def _called_again(request: Json, completion: Json, serial: int) -> Reply:
    """Each call twice in one answer, under one id."""
    message = completion["choices"][0]["message"]
    if message.get("tool_calls"):
        message["tool_calls"] = [call for call in message["tool_calls"] for _ in range(2)]
    return _good("called again", completion, serial)


def _chosen_again(request: Json, completion: Json, serial: int) -> Reply:
    return _good("chosen again", completion | {"choices": completion["choices"] * 2}, serial)


def _asked_anew(request: Json, completion: Json, serial: int) -> Reply:
    """The answer of the first round once more in the second, with the ids that it had there."""
    first = [message for message in request["messages"] if message["role"] == "assistant"]
    if len(first) == 1 and first[0].get("tool_calls"):
        completion["choices"] = [{"index": 0, "message": first[0], "finish_reason": "tool_calls"}]
    return _good("answered anew", completion, serial)


REPETITIONS: tuple[Callable[[Json, Json, int], Reply], ...] = (
    _sent_again,
    _called_again,
    _chosen_again,
    _asked_anew,
)
