"""Asks for a class of models, and gets the answer of the first entry of its chain that can give one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from projector.errors import AliasConfigError, RouteError
from projector.llm.answer import token_count
from projector.llm.attempt import Attempt, Usage
from projector.llm.breaker import Breaker, ProviderState
from projector.llm.config import LONGEST_MODEL, Alias, Capability, Entry, Limits, Policy, Provider
from projector.llm.endpoint import Endpoint, ModelStream
from projector.llm.metrics import NO_METRICS, Metrics
from projector.llm.observe import Circuits, observe_call, observe_refused_route
from projector.llm.patience import Patience
from projector.llm.probe import Probe, Prober
from projector.llm.providers.wire import Body
from projector.llm.registry import Registry, Snapshot
from projector.llm.walk import Ask, Candidate, Gate, GiveUp, Wait, Walk
from projector.logging import get

if TYPE_CHECKING:
    from projector.llm.transport import Transport

T = TypeVar("T")

log = get("llm")


@dataclass(frozen=True, slots=True)
class Answer:
    """`body` is a `chat.completion`; `resolved` is the entry that gave it, `model` what its provider calls that."""

    body: Body
    requested: str
    resolved: str
    attempts: tuple[Attempt, ...]
    usage: Usage
    model: str = ""


@dataclass(frozen=True, slots=True)
class _State:
    """What one call sees of the file, from its beginning to its end."""

    snapshot: Snapshot
    endpoints: Mapping[str, Endpoint]


class LLMRouter:
    """Use as an async context manager. Calls belong to one event loop; any thread may read."""

    def __init__(
        self,
        registry: Registry,
        *,
        breaker: Breaker | None = None,
        gate: Gate | None = None,
        transport: Transport | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        places: int | None = None,
        metrics: Metrics = NO_METRICS,
    ) -> None:
        """`places`: at most so many calls at once for each provider, of streams until their first chunk."""
        self.registry = registry
        self.breaker = breaker or Breaker(registry.snapshot.config.breaker)
        self._gate: Gate = gate or self.breaker
        self._transport = transport
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311
        self._sleep = sleep
        self._most_places = places
        self._places: dict[str, asyncio.Semaphore] = {}
        self._metrics = metrics
        self._circuits = Circuits(metrics, registry.snapshot)
        self.breaker.add_listener(self._circuits)
        self._state = self._made_of(registry.snapshot)
        self._prober: Prober | None = None
        self._reloading = asyncio.Lock()
        metrics.generation(registry.snapshot.generation)
        registry.on_reload(self._reloaded)

    @classmethod
    def from_config(cls, path: Path | str, *, places: int | None = None, metrics: Metrics = NO_METRICS) -> Self:
        """Raises AliasConfigError."""
        return cls(Registry(path), places=places, metrics=metrics)

    async def __aenter__(self) -> Self:
        # Here, and not within the time of the first call.
        self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._prober is not None:
            await self._prober.stop()
        if self._transport is not None:
            await self._transport.close()

    # Calls

    async def complete(
        self, body: Body, *, deadline_s: float | None = None, call_id: str = "", policy: Policy | None = None
    ) -> Answer:
        """Asks for the class of models in `body["model"]`, in the form of OpenAI's chat completions.

        `policy` replaces that of the file for this call.

        Raises a RouteError that carries all attempts.
        """
        async with self._call(body, deadline_s, call_id, policy, stream=False) as call:
            answer, ask = await call.walked(Endpoint.complete)
            usage = call.usage(ask.entry, answer.get("usage"))
            call.walk.answered(self._clock(), usage)
            call.walk.finished()
            model = str(answer.get("model") or "")[:LONGEST_MODEL]
            answer["model"] = ask.entry.name
            return Answer(answer, call.requested, ask.entry.name, tuple(call.walk.attempts), usage, model)

    @asynccontextmanager
    async def stream(self, body: Body, *, deadline_s: float | None = None, call_id: str = "") -> AsyncIterator[Stream]:
        """As `complete`, chunk by chunk. On entry the first chunk is there, and no other entry is asked any more.

        The deadline is that of the first chunk; after it each has `idle_s`. Leaving ends the call at the provider.
        """
        async with self._call(body, deadline_s, call_id, None, stream=True) as call:
            source, ask = await call.walked(Endpoint.stream)
            call.walk.answered(self._clock())
            self._metrics.first_byte(call.alias_label, self._clock() - call.started)
            stream = Stream(call, source, ask.entry)
            try:
                yield stream
            finally:
                await stream.aclose()

    @asynccontextmanager
    async def _call(
        self, body: Body, deadline_s: float | None, call_id: str, policy: Policy | None, *, stream: bool
    ) -> AsyncIterator[_Call]:
        state = self._state
        call_id = call_id or f"{self._rng.getrandbits(128):032x}"
        requested = body.get("model") or ""
        try:
            alias = state.snapshot.route(requested if isinstance(requested, str) else "")
        except RouteError as error:
            error.requested = str(requested)
            observe_refused_route(self._metrics, error.kind, call_id)
            raise
        call = _Call(self, state, alias, body, deadline_s, call_id, policy)
        outcome = "cancelled"
        try:
            yield call
            outcome = call.broken or "ok"
        except RouteError as error:
            outcome = error.kind
            raise
        except Exception:
            outcome = "fault"
            raise
        finally:
            observe_call(
                self._metrics,
                state.snapshot,
                alias.name,
                call.walk.attempts,
                call.walk.fallbacks,
                outcome=outcome,
                call_id=call_id,
                seconds=self._clock() - call.started,
                stream=stream,
            )

    @asynccontextmanager
    async def place_at(self, provider: str, longest_s: float) -> AsyncIterator[bool]:
        """A place for a call of this provider, or none within `longest_s`; whether it had to be waited for."""
        if self._most_places is None:
            yield False
            return
        place = self._places.get(provider)
        if place is None:
            place = self._places[provider] = asyncio.Semaphore(self._most_places)
        waited, held = place.locked(), True
        try:
            async with Patience(longest_s):
                await place.acquire()
        except TimeoutError:
            held = False
        try:
            yield waited
        finally:
            if held:
                place.release()

    # The file

    async def reload(self) -> Snapshot:
        """Reads the file again; calls that run go on with what they began with. Raises AliasConfigError."""
        try:
            async with self._reloading:
                # A long file takes a while, in which calls must go on.
                return self.registry.adopt(await asyncio.to_thread(self.registry.read))
        except AliasConfigError as error:
            self._metrics.reload("failed")
            log.error("aliases not reloaded", error=error.message, generation=self.registry.snapshot.generation)
            raise

    def _reloaded(self, snapshot: Snapshot) -> None:
        before = self._state.snapshot
        self._circuits.take(snapshot)
        self.breaker.reconfigure(snapshot.config.breaker)
        self._state = self._made_of(snapshot)
        # What was found out about the old address, or with the old key, says nothing of the new one.
        self.breaker.reset([name for name in before.config.providers if before.place(name) != snapshot.place(name)])
        if self._prober is not None:
            self._prober.configure(self._probes(), **self._probe_times())
        self._metrics.reload("ok")
        self._metrics.generation(snapshot.generation)
        log.info("aliases reloaded", generation=snapshot.generation, aliases=len(snapshot.config.aliases))

    def _made_of(self, snapshot: Snapshot) -> _State:
        for warning in snapshot.config.warnings:
            log.warning("aliases", warning=warning)
        endpoints = {
            name: Endpoint(snapshot.config.providers[name], key, self._opened, self._metrics)
            for name, key in snapshot.keys.items()
        }
        return _State(snapshot, endpoints)

    def _opened(self) -> Transport:
        if self._transport is None:
            # Not above: who only plans, replays or checks the file needs no HTTP.
            from projector.llm.transport import HTTPTransport

            self._transport = HTTPTransport()
        return self._transport

    # Health

    @property
    def providers(self) -> tuple[str, ...]:
        """The configured ones."""
        return tuple(sorted(self._state.endpoints))

    def health(self) -> dict[str, ProviderState]:
        states = self.breaker.snapshot(self.providers)
        return {name: state for name, state in states.items() if name in self._state.endpoints}

    async def start_probes(self) -> Prober:
        """Begins to probe, until the router is closed."""
        if self._prober is None:
            self._prober = self._made_prober()
            self._prober.start()
        return self._prober

    async def probe_now(self) -> None:
        await (self._prober or self._made_prober()).tick_once()

    async def offered(self, provider: str) -> frozenset[str]:
        """The models that a configured provider lists; raises a RouteError."""
        timeout_s = self._state.snapshot.config.probe.timeout_s
        return await self._state.endpoints[provider].models(Limits(timeout_s, timeout_s, timeout_s, timeout_s))

    def _made_prober(self) -> Prober:
        return Prober(self.breaker, self._probes(), **self._probe_times(), rng=self._rng, metrics=self._metrics)

    def _probe_times(self) -> dict[str, float]:
        probe = self._state.snapshot.config.probe
        return {"interval": probe.interval_s, "timeout": probe.timeout_s, "jitter": probe.jitter}

    def _probes(self) -> dict[str, Probe]:
        probes: dict[str, Probe] = {}
        for name, endpoint in self._state.endpoints.items():
            match endpoint.provider.probe:
                case "inventory":
                    probes[name] = partial(self._take_inventory, endpoint)
                case "completion":
                    if (model := self._first_model(name)) is not None:
                        probes[name] = partial(self._ask_for_a_word, endpoint, model)
        return probes

    def _first_model(self, provider: str) -> str | None:
        aliases = self._state.snapshot.config.aliases.values()
        entries = (entry for alias in aliases for entry in alias.entries)
        return next((entry.model for entry in entries if entry.provider == provider), None)

    async def _take_inventory(self, endpoint: Endpoint) -> bool:
        """Any answer below 500 shows that the provider is there; one that refuses the key is told apart."""
        status = await endpoint.inventory_status(self._state.snapshot.config.probe.timeout_s)
        self._key_refused(endpoint, status in (401, 403))
        return status < 500

    async def _ask_for_a_word(self, endpoint: Endpoint, model: str) -> bool:
        timeout_s = self._state.snapshot.config.probe.timeout_s
        body = {"messages": [{"role": "user", "content": "ping"}], "max_tokens": 1}
        refused = False
        try:
            await endpoint.complete(model, body, Limits(timeout_s, timeout_s, timeout_s, timeout_s))
        except RouteError as error:
            # One that refuses is there: what it refuses is the calls' to find out.
            if error.status is None or not 400 <= error.status < 500:
                raise
            refused = error.kind == "auth"
        self._key_refused(endpoint, refused)
        return True

    def _key_refused(self, endpoint: Endpoint, refused: bool) -> None:
        self.breaker.suspect_auth(endpoint.provider.name, refused)
        if refused:
            self._metrics.probe(endpoint.provider.name, "auth")


class _Call:
    """One call on its way."""

    def __init__(
        self,
        router: LLMRouter,
        state: _State,
        alias: Alias,
        body: Body,
        deadline_s: float | None,
        call_id: str,
        policy: Policy | None,
    ) -> None:
        self._router = router
        self._state = state
        self._body = body
        self._call_id = call_id
        config = state.snapshot.config
        self.requested = alias.name
        self.alias_label = alias.name if alias.name in config.aliases else "direct"
        self.broken = ""
        self.started = router._clock()
        needs = needed(body) | alias.requires
        self.walk = Walk(
            alias.name,
            [self._candidate(entry, needs) for entry in alias.entries],
            router._gate,
            config.budgets,
            policy or config.policy,
            self.started + (config.budgets.deadline_s if deadline_s is None else deadline_s),
            router._rng,
        )

    async def walked(self, ask: Callable[[Endpoint, str, Body, Limits, str], Awaitable[T]]) -> tuple[T, Ask]:
        """Walks the chain until an entry answers; raises a RouteError."""
        walk, clock = self.walk, self._router._clock
        while True:
            step = walk.next(clock())
            if isinstance(step, GiveUp):
                raise step.error
            if isinstance(step, Wait):
                await self._router._sleep(step.seconds)
                continue
            endpoint = self._state.endpoints[step.entry.provider]
            try:
                async with self._router.place_at(step.entry.provider, walk.spare_s(clock())) as waited:
                    asked = walk.held_up(clock()) if waited else step
                    if asked is None:
                        continue
                    body = _limited(self._body, asked.entry)
                    return await ask(endpoint, asked.entry.model, body, asked.limits, self._call_id), asked
            except RouteError as error:
                walk.failed(error, clock(), self.usage(step.entry, error.usage))
            except BaseException:
                walk.cancelled()
                raise

    def usage(self, entry: Entry, told: Any) -> Usage:
        # Bounded here, where all read it: one absurd figure would be the end of a counter.
        prompt, completed = token_count(told, "prompt_tokens"), token_count(told, "completion_tokens")
        price = self._provider(entry).prices.get(entry.model)
        cost = (prompt * price.prompt + completed * price.completion) / 1e6 if price is not None else 0.0
        return Usage(prompt, completed, cost)

    def _provider(self, entry: Entry) -> Provider:
        return self._state.endpoints[entry.provider].provider

    def _candidate(self, entry: Entry, needs: frozenset[Capability]) -> Candidate:
        limits, endpoint = self._state.snapshot.config.limits_of(entry), self._state.endpoints.get(entry.provider)
        if endpoint is None:
            return Candidate(entry, limits, "unconfigured")
        lacking = (needs | entry.requires) - endpoint.provider.can(entry.model)
        return Candidate(entry, limits, "capability" if lacking or endpoint.lacks(self._body) else "")


class Stream:
    """The chunks of one answer; iterate once. `resolved` and `attempts` are known before the first is read."""

    def __init__(self, call: _Call, source: ModelStream, entry: Entry) -> None:
        self._call = call
        self._source = source
        self._entry = entry
        self._over = False
        self.requested = call.requested
        self.resolved = entry.name

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return tuple(self._call.walk.attempts)

    @property
    def usage(self) -> Usage:
        return self._call.usage(self._entry, self._source.usage)

    def __aiter__(self) -> Stream:
        return self

    async def __anext__(self) -> Body:
        """Raises a RouteError when the answer breaks off; no other entry is asked then."""
        try:
            return await anext(self._source)
        except StopAsyncIteration:
            self._finish(None)
            raise
        except RouteError as error:
            self._finish(error)
            raise

    def ready(self) -> list[Body]:
        """Chunks that came together with the last one: to be taken at once, where each write costs."""
        return self._source.ready()

    async def aclose(self) -> None:
        """What was read until now counts as an answer: it is the reader who wants no more."""
        if not self._over:
            self._finish(None)
            self._call.broken = "cancelled"
        await self._source.aclose()

    def _finish(self, error: RouteError | None) -> None:
        if not self._over:
            self._over = True
            self._call.walk.finished(self.usage, error)
            self._call.broken = error.kind if error is not None else ""


def needed(body: Body) -> frozenset[Capability]:
    """What a model must be able to do for this request."""
    needs: set[Capability] = set()
    if body.get("tools"):
        needs.add("tools")
    wanted = body.get("response_format")
    if isinstance(wanted, dict) and wanted.get("type") in ("json_object", "json_schema"):
        needs.add("json")
    for message in body.get("messages") or ():
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and any(isinstance(p, dict) and p.get("type") == "image_url" for p in content):
            needs.add("vision")
    return frozenset(needs)


def _limited(body: Body, entry: Entry) -> Body:
    """The request with the entry's own limit of tokens."""
    most = entry.max_output_tokens
    if most is None:
        return body
    name = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    given = body.get(name)
    return {**body, name: min(given, most) if isinstance(given, int) else most}
