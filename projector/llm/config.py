"""What the file of aliases may say, and what it says. The format is told in docs/llm.md."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Literal

from projector.llm.yaml_lines import Field, read

Capability = Literal["tools", "json", "vision"]
CAPABILITIES: frozenset[Capability] = frozenset(("tools", "json", "vision"))
Kind = Literal["openai", "anthropic", "google"]
KINDS: tuple[Kind, ...] = ("openai", "anthropic", "google")
ProbeKind = Literal["inventory", "completion", "none"]
PROBES: tuple[ProbeKind, ...] = ("inventory", "completion", "none")
OnRefusal = Literal["propagate", "next"]
ON_REFUSAL: tuple[OnRefusal, ...] = ("propagate", "next")

DEFAULT_NAMESPACE = "mana"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_PRINTABLE = re.compile(r"[\x21-\x7e]+")
LONGEST_MODEL = 200


@dataclass(frozen=True, slots=True)
class Entry:
    """One place of a chain. `timeout_s` is both what its first byte and what its whole answer may take."""

    provider: str
    model: str
    timeout_s: float | None = None
    max_output_tokens: int | None = None
    requires: frozenset[Capability] = frozenset()

    @property
    def name(self) -> str:
        return f"{self.provider}/{self.model}"


@dataclass(frozen=True, slots=True)
class Alias:
    """A class of models: its entries in order of preference."""

    name: str
    description: str
    entries: tuple[Entry, ...]
    requires: frozenset[Capability] = frozenset()

    @property
    def chain(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.entries)


@dataclass(frozen=True, slots=True)
class Price:
    """US dollars for a million tokens."""

    prompt: float
    completion: float


@dataclass(frozen=True, slots=True)
class Provider:
    """One endpoint. Neither `key_env` nor `key_file`: it wants no key."""

    name: str
    base_url: str
    kind: Kind = "openai"
    key_env: str = ""
    key_file: str = ""
    supports: frozenset[Capability] = CAPABILITIES
    tool_models: tuple[str, ...] = ()
    probe: ProbeKind = "inventory"
    probe_path: str = ""
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Those of `Limits` that are its own, by name."""
    prices: Mapping[str, Price] = field(default_factory=dict)
    stream_usage: bool = True
    line: int = 0
    """Of the file, for errors that only come with the key."""
    call_id_header: str = ""
    """In which the id of the call goes along; '': in none."""

    def can(self, model: str) -> frozenset[Capability]:
        if any(fnmatchcase(model, pattern) for pattern in self.tool_models):
            return self.supports | {"tools"}
        return self.supports


@dataclass(frozen=True, slots=True)
class BreakerSettings:
    failure_threshold: int = 2
    open_s: float = 60.0
    multiplier: float = 2.0
    max_open_s: float = 300.0
    rate_limit_default_s: float = 15.0
    jitter: float = 0.1


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    interval_s: float = 30.0
    timeout_s: float = 3.0
    jitter: float = 0.2


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds that one attempt may take: to connect, until the first byte, between two bytes, and in all."""

    connect_s: float = 3.0
    first_byte_s: float = 30.0
    idle_s: float = 20.0
    total_s: float = 60.0


LIMITS = tuple(limit.name for limit in fields(Limits))


@dataclass(frozen=True, slots=True)
class Budgets:
    """`deadline_s` of a whole call, in seconds; `limits` of an attempt whose provider has none of its own."""

    deadline_s: float = 120.0
    limits: Limits = Limits()
    max_attempts: int = 4
    min_attempt_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Policy:
    auth: OnRefusal = "propagate"
    payment: OnRefusal = "propagate"
    last_retry: int = 1
    last_resort: bool = False


@dataclass(frozen=True, slots=True)
class Config:
    """One file, checked. `warnings` are what is legal and probably a mistake."""

    namespace: str = DEFAULT_NAMESPACE
    providers: Mapping[str, Provider] = field(default_factory=dict)
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    default: str | None = None
    breaker: BreakerSettings = BreakerSettings()
    probe: ProbeSettings = ProbeSettings()
    budgets: Budgets = Budgets()
    policy: Policy = Policy()
    warnings: tuple[str, ...] = ()

    def limits_of(self, entry: Entry) -> Limits:
        """What an attempt of it may take when there is time: as the entry says, else its provider, else `budgets`."""
        limits, provider = self.budgets.limits, self.providers.get(entry.provider)
        if provider is not None and provider.timeouts:
            limits = replace(limits, **provider.timeouts)
        if entry.timeout_s is not None:
            limits = replace(limits, first_byte_s=entry.timeout_s, total_s=entry.timeout_s)
        return limits


def parse(text: str, file: str = "llm.yaml") -> Config:
    """Raises AliasConfigError, which names file, line and key."""
    root = read(text, file)
    keys = {"version", "namespace", "providers", "aliases", "default", "breaker", "probe", "budgets", "policy"}
    top = root.mapping(keys, "the root must be a mapping")
    if "version" in top and (type(version := top["version"].scalar()) is not int or version != 1):
        top["version"].fail("only version 1 is known")
    namespace = _name(top["namespace"]) if "namespace" in top else DEFAULT_NAMESPACE
    providers = _providers(top["providers"], namespace) if "providers" in top else {}
    if "aliases" not in top:
        root.fail("`aliases` is empty: name at least one")
    aliases = _aliases(top["aliases"], namespace)
    default = None
    if "default" in top:
        default = top["default"].text("`default` must be a string")
        if default not in aliases:
            top["default"].fail(f"`default` references unknown alias {default!r}")
    return Config(
        namespace=namespace,
        providers=providers,
        aliases=aliases,
        default=default,
        breaker=_breaker(top["breaker"]) if "breaker" in top else BreakerSettings(),
        probe=_probe_settings(top["probe"]) if "probe" in top else ProbeSettings(),
        budgets=_budgets(top["budgets"]) if "budgets" in top else Budgets(),
        policy=_policy(top["policy"]) if "policy" in top else Policy(),
        warnings=tuple(_warnings(aliases, providers)),
    )


def split(name: str) -> tuple[str, str]:
    """Provider, in lower case, and model of `provider/model`; both empty when it has no slash."""
    provider, slash, model = name.partition("/")
    return (provider.lower(), model) if slash else ("", "")


def is_base_url(url: str) -> bool:
    """Whether it is of http or https, without user, password, query and fragment."""
    return re.fullmatch(r"https?://[^\s/@?#]+(/[^\s@?#]*)?", url) is not None


# Aliases


def _aliases(field: Field, namespace: str) -> dict[str, Alias]:
    if not field.is_mapping:
        field.fail("`aliases` must be a mapping")
    prefix = f"{namespace}/"
    aliases = {}
    for key, body in field.pairs():
        name = key.scalar()
        if not isinstance(name, str) or not name.startswith(prefix):
            key.fail(f"the name of an alias must start with {prefix}")
        if not name.removeprefix(prefix) or "/" in name.removeprefix(prefix):
            key.fail(f"the name of an alias must have exactly one segment after {prefix}")
        if not _PRINTABLE.fullmatch(name) or len(name) > LONGEST_MODEL:
            key.fail(
                f"the name of an alias must be of at most {LONGEST_MODEL} printable ASCII characters, without spaces"
            )
        aliases[name] = _alias(name, body, namespace)
    if not aliases:
        field.fail("`aliases` is empty: name at least one")
    return aliases


def _alias(name: str, field: Field, namespace: str) -> Alias:
    body = field.mapping({"description", "chain", "requires"}, "body must be a mapping")
    if "chain" not in body:
        field.fail("chain must be a list, and there is none")
    entries: dict[str, Entry] = {}
    for item in body["chain"].items("chain must be a list"):
        entry = _entry(item, namespace)
        if entry.name in entries:
            item.fail(f"{entry.name} stands in this chain already")
        entries[entry.name] = entry
    if not entries:
        body["chain"].fail("chain must not be empty")
    return Alias(
        name=name,
        description=body["description"].text("description must be a string") if "description" in body else "",
        entries=tuple(entries.values()),
        requires=_capabilities(body["requires"]) if "requires" in body else frozenset(),
    )


def _entry(item: Field, namespace: str) -> Entry:
    if not item.is_mapping:
        return Entry(*_place(item, namespace))
    body = item.mapping({"model", "timeout_s", "max_output_tokens", "requires"})
    if "model" not in body:
        item.fail("an entry must name its `model`")
    provider, model = _place(body["model"], namespace)
    return Entry(
        provider,
        model,
        timeout_s=body["timeout_s"].number(0.1, 3600) if "timeout_s" in body else None,
        max_output_tokens=body["max_output_tokens"].whole(1, 10_000_000) if "max_output_tokens" in body else None,
        requires=_capabilities(body["requires"]) if "requires" in body else frozenset(),
    )


def _place(item: Field, namespace: str) -> tuple[str, str]:
    message = "an entry must be a non-empty string provider/model"
    text = item.text(message)
    if not text:
        item.fail(message)
    if "/" not in text:
        item.fail(f"{text!r} has no provider prefix: write provider/model")
    provider, model = split(text)
    if provider == namespace:
        item.fail(f"{text!r} is an alias, and a chain cannot hold one")
    if not provider or not model.strip():
        item.fail(f"{text!r} must have a provider before the first slash and a model after it")
    if not _PRINTABLE.fullmatch(text):
        # It goes into headers and URLs.
        item.fail("the name of a model must be of printable ASCII characters, without spaces")
    if len(model) > LONGEST_MODEL:
        item.fail(f"the name of a model must not be longer than {LONGEST_MODEL} characters")
    return provider, model


def _capabilities(field: Field) -> frozenset[Capability]:
    return frozenset(item.choice(CAPABILITIES) for item in field.items())


# Providers


def _providers(field: Field, namespace: str) -> dict[str, Provider]:
    if not field.is_mapping:
        field.fail("`providers` must be a mapping")
    providers = {}
    for key, body in field.pairs():
        name = _name(key)
        if name == namespace:
            key.fail("is the namespace of the aliases, and cannot be a provider")
        providers[name] = _provider(name, body)
    return providers


def _provider(name: str, field: Field) -> Provider:
    known = {"base_url", "kind", "api_key_env", "api_key_file", "supports", "tool_models", "probe", "prices"}
    body = field.mapping(known | {"timeouts", "stream_usage"})
    if "base_url" not in body:
        field.fail("must have a `base_url`")
    url = body["base_url"].text()
    if not is_base_url(url):
        body["base_url"].fail("must be an http:// or https:// URL without user, password, query or fragment")
    key_env = _optional_text(body.get("api_key_env"))
    key_file = _optional_text(body.get("api_key_file"))
    if key_env and key_file:
        body["api_key_file"].fail("there is an api_key_env already: keep one of them")
    if key_env and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", key_env):
        # Not quoted: it may be the key itself.
        body["api_key_env"].fail("must be the name of an environment variable, never the key")
    kind: ProbeKind = "inventory"
    path = ""
    if "probe" in body:
        probe = body["probe"].mapping({"kind", "path"})
        kind = probe["kind"].choice(PROBES) if "kind" in probe else kind
        path = probe["path"].text() if "path" in probe else ""
        if path and not path.startswith("/"):
            probe["path"].fail("must start with a slash; it is joined to base_url")
    return Provider(
        name=name,
        base_url=url.rstrip("/"),
        kind=body["kind"].choice(KINDS) if "kind" in body else "openai",
        key_env=key_env,
        key_file=key_file,
        supports=_capabilities(body["supports"]) if "supports" in body else CAPABILITIES,
        tool_models=tuple(item.text() for item in body["tool_models"].items()) if "tool_models" in body else (),
        probe=kind,
        probe_path=path,
        timeouts=_limits(body["timeouts"].mapping(LIMITS)) if "timeouts" in body else {},
        prices=_prices(body["prices"]) if "prices" in body else {},
        stream_usage=body["stream_usage"].truth() if "stream_usage" in body else True,
        line=(body["api_key_file"] if key_file else body["api_key_env"] if key_env else field).line,
    )


def _prices(field: Field) -> dict[str, Price]:
    if not field.is_mapping:
        field.fail("must be a mapping of models to {prompt, completion}, in US dollars for a million tokens")
    prices = {}
    for key, body in field.pairs():
        price = body.mapping({"prompt", "completion"})
        if price.keys() != {"prompt", "completion"}:
            body.fail("must have prompt and completion")
        prices[key.text()] = Price(price["prompt"].number(0, 1e6), price["completion"].number(0, 1e6))
    return prices


def _optional_text(field: Field | None) -> str:
    return field.text() if field is not None and field.scalar() is not None else ""


def _name(field: Field) -> str:
    name = field.text()
    if not _NAME.fullmatch(name):
        field.fail("must be a name of lower-case letters, digits, - and _")
    return name


# Numbers


def _breaker(field: Field) -> BreakerSettings:
    known = {"failure_threshold", "open_s", "multiplier", "max_open_s", "rate_limit_default_s", "jitter"}
    body, base = field.mapping(known), BreakerSettings()
    made = BreakerSettings(
        failure_threshold=body["failure_threshold"].whole(1, 1000) if "failure_threshold" in body else 2,
        open_s=body["open_s"].number(0, 86400) if "open_s" in body else base.open_s,
        multiplier=body["multiplier"].number(1, 10) if "multiplier" in body else base.multiplier,
        max_open_s=body["max_open_s"].number(0, 86400) if "max_open_s" in body else base.max_open_s,
        rate_limit_default_s=(
            body["rate_limit_default_s"].number(0, 300) if "rate_limit_default_s" in body else base.rate_limit_default_s
        ),
        jitter=body["jitter"].number(0, 0.5) if "jitter" in body else base.jitter,
    )
    if made.max_open_s < made.open_s:
        field.fail(f"max_open_s ({made.max_open_s:g}) is below open_s ({made.open_s:g})")
    return made


def _probe_settings(field: Field) -> ProbeSettings:
    body, base = field.mapping({"interval_s", "timeout_s", "jitter"}), ProbeSettings()
    return ProbeSettings(
        interval_s=body["interval_s"].number(0.01, 86400) if "interval_s" in body else base.interval_s,
        timeout_s=body["timeout_s"].number(0.01, 600) if "timeout_s" in body else base.timeout_s,
        jitter=body["jitter"].number(0, 0.9) if "jitter" in body else base.jitter,
    )


def _budgets(field: Field) -> Budgets:
    body, base = field.mapping({"deadline_s", "max_attempts", "min_attempt_s", *LIMITS}), Budgets()
    return Budgets(
        deadline_s=_seconds(body["deadline_s"]) if "deadline_s" in body else base.deadline_s,
        limits=Limits(**_limits(body)),
        max_attempts=body["max_attempts"].whole(1, 100) if "max_attempts" in body else base.max_attempts,
        min_attempt_s=body["min_attempt_s"].number(0, 600) if "min_attempt_s" in body else base.min_attempt_s,
    )


def _limits(body: Mapping[str, Field]) -> dict[str, float]:
    """Those of `Limits` that are given."""
    return {name: _seconds(body[name]) for name in LIMITS if name in body}


def _seconds(field: Field) -> float:
    return field.number(0.01, 3600)


def _policy(field: Field) -> Policy:
    body, base = field.mapping({"auth", "payment", "last_retry", "last_resort"}), Policy()
    return Policy(
        auth=body["auth"].choice(ON_REFUSAL) if "auth" in body else base.auth,
        payment=body["payment"].choice(ON_REFUSAL) if "payment" in body else base.payment,
        last_retry=body["last_retry"].whole(0, 5) if "last_retry" in body else base.last_retry,
        last_resort=body["last_resort"].truth() if "last_resort" in body else base.last_resort,
    )


def _warnings(aliases: Mapping[str, Alias], providers: Mapping[str, Provider]) -> list[str]:
    warnings = []
    for alias in aliases.values():
        for entry in alias.entries:
            provider = providers.get(entry.provider)
            if provider is None:
                warnings.append(f"{alias.name}: {entry.name}: there is no provider {entry.provider!r}: never asked")
            elif lacking := (alias.requires | entry.requires) - provider.can(entry.model):
                warnings.append(f"{alias.name}: {entry.name}: cannot do {', '.join(sorted(lacking))}: never asked")
        last = providers.get(alias.entries[-1].provider)
        if last is not None and not (last.key_env or last.key_file):
            warnings.append(f"{alias.name}: ends with {alias.entries[-1].name}, which is no hosted provider")
    return warnings
