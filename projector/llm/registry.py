"""The aliases in force. A reload replaces them as a whole, and only with a file without an error."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from projector.errors import AliasConfigError, NoModelError, UnknownAliasError
from projector.llm.config import LONGEST_MODEL, Alias, Config, Entry, parse, split
from projector.llm.yaml_lines import read_text

LONGEST_NAMED = 100
_KEY = re.compile(r"[\x21-\x7e]*")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One state of the file; `loaded_at` is Unix time.

    `keys` holds each provider's key, '' for one that wants none; a provider that is not in it is not configured.
    """

    config: Config
    generation: int
    loaded_at: float
    keys: Mapping[str, str] = field(repr=False)
    entries: frozenset[str] = frozenset()
    """The names of all entries of all chains: only they become labels of metrics."""

    @property
    def default(self) -> str | None:
        return self.config.default

    def place(self, provider: str) -> tuple[str, str] | None:
        """Where it is and with which key it is asked; None when it is not."""
        key = self.keys.get(provider)
        return None if key is None else (self.config.providers[provider].base_url, key)

    def resolve(self, name: str) -> Alias:
        """Raises UnknownAliasError."""
        alias = self.config.aliases.get(name)
        if alias is None:
            known = ", ".join(sorted(self.config.aliases))
            raise UnknownAliasError(f"there is no alias {name[:LONGEST_NAMED]!r}; there are {known}")
        return alias

    def route(self, requested: str) -> Alias:
        """What to ask for `requested`: nothing is the default, `provider/model` a chain of that entry alone.

        Raises NoModelError or UnknownAliasError, the latter also for a bare name.
        """
        if not requested:
            if self.default is None:
                raise NoModelError("the request names no model, and there is no default alias")
            requested = self.default
        if (alias := self.config.aliases.get(requested)) is not None:
            return alias
        provider, model = split(requested)
        if not provider or not model or provider == self.config.namespace or len(model) > LONGEST_MODEL:
            return self.resolve(requested)
        return Alias(requested, "", (Entry(provider, model),))


class Registry:
    """Readers take `snapshot` once and keep it for the whole of their call; any thread may read."""

    def __init__(self, path: Path | str, *, environment: Mapping[str, str] | None = None) -> None:
        """Raises AliasConfigError."""
        self.path = Path(path)
        self._environment = os.environ if environment is None else environment
        self._adopting = threading.Lock()
        self._listeners: list[Callable[[Snapshot], None]] = []
        self.snapshot = self.read()

    @property
    def default_alias(self) -> str | None:
        return self.snapshot.default

    def resolve(self, name: str) -> Alias:
        """Raises UnknownAliasError."""
        return self.snapshot.resolve(name)

    def resolve_chain(self, name: str) -> tuple[str, ...]:
        """Raises UnknownAliasError."""
        return self.snapshot.resolve(name).chain

    def list_aliases(self) -> list[Alias]:
        """Sorted by name."""
        return [alias for _, alias in sorted(self.snapshot.config.aliases.items())]

    def on_reload(self, listener: Callable[[Snapshot], None]) -> None:
        """`listener` is called with each new state, in the thread that reloads."""
        self._listeners.append(listener)

    def reload(self) -> Snapshot:
        """Reads the same path again. Raises AliasConfigError, and then all stays as it was."""
        return self.adopt(self.read())

    def adopt(self, made: Snapshot) -> Snapshot:
        """Puts what `read` gave in force, as the next generation."""
        with self._adopting:
            self.snapshot = made = replace(made, generation=self.snapshot.generation + 1)
        for listener in self._listeners:
            listener(made)
        return made

    def read(self) -> Snapshot:
        """What the file says now, which changes nothing. Raises AliasConfigError."""
        try:
            text = read_text(self.path)
        except FileNotFoundError:
            raise AliasConfigError(f"{self.path}: not found") from None
        except UnicodeDecodeError as error:
            raise AliasConfigError(f"{self.path}: not a text in UTF-8, at byte {error.start}") from None
        except OSError as error:
            raise AliasConfigError(f"{self.path}: {error.strerror}") from None
        config = parse(text, str(self.path))
        entries = frozenset(name for alias in config.aliases.values() for name in alias.chain)
        return Snapshot(config, 1, time.time(), self._keys(config), entries)

    def _keys(self, config: Config) -> dict[str, str]:
        keys = {}
        for provider in config.providers.values():
            where = f"{self.path}:{provider.line}: providers.{provider.name}"
            if provider.key_file:
                where += ".api_key_file"
                try:
                    key = Path(provider.key_file).read_text("utf-8").strip()
                except (OSError, ValueError) as error:
                    reason = getattr(error, "strerror", None) or "not a text in UTF-8"
                    raise AliasConfigError(f"{where}: {provider.key_file}: {reason}") from None
            else:
                where += ".api_key_env"
                key = self._environment.get(provider.key_env, "").strip() if provider.key_env else ""
            if not is_key(key):
                # Not quoted: most of it may be right. In a header it would break every call.
                raise AliasConfigError(
                    f"{where}: the key in {provider.key_file or provider.key_env} is no single word of printable ASCII"
                    " characters"
                )
            if key or not (provider.key_env or provider.key_file):
                keys[provider.name] = key
        return keys


def is_key(text: str) -> bool:
    """Whether it can stand in a header."""
    return _KEY.fullmatch(text) is not None


def is_alias(name: object, namespace: str = "mana") -> bool:
    """Whether it has the form of an alias, known or not."""
    return isinstance(name, str) and name.startswith(f"{namespace}/")
