"""Settings: environment variables with the prefix PROJECTOR_, validated once at start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from projector.errors import ConfigError

# What missions can read and write today; `PROJECTOR_APPS` names others.
DEFAULT_APPS = ("ai", "companion", "notes", "todo", "calendar", "journal", "kontext", "profile")


def default_cache_dir() -> Path:
    """The user's cache folder, where the embedded servers are kept once fetched."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "projector"


class Settings(BaseSettings):
    """Everything that can be set. Each field is read from `PROJECTOR_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix="PROJECTOR_", extra="ignore", frozen=True)

    # Servers
    database_url: SecretStr = SecretStr("")
    """Login of all streams: a role without superuser, member of the projector_* roles."""
    admin_database_url: SecretStr = SecretStr("")
    """Only for `projector migrate` and `projector doctor`; default: database_url."""
    replication_url: SecretStr = SecretStr("")
    """Login with REPLICATION for the slot; default: database_url."""
    kafka_bootstrap_servers: str = ""

    # Topics and slot
    topic_prefix: str = Field("projector", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    topic_partitions: int = Field(4, ge=1, le=1024)
    topic_replication_factor: int = Field(1, ge=1, le=32767)
    max_message_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024)
    apps: Annotated[tuple[str, ...], NoDecode] = DEFAULT_APPS
    slot_name: str = Field("projector", pattern=r"^[a-z0-9_]{1,63}$")
    publication_name: str = Field("projector", pattern=r"^[a-z0-9_]{1,63}$")
    allow_missing_history: bool = False

    # Planner
    llm_base_url: str = ""
    """An OpenAI-compatible endpoint, up to and without /v1/chat/completions."""
    llm_api_key: SecretStr = SecretStr("")
    llm_model: str = "mana/reasoning"
    llm_timeout_s: float = Field(120.0, gt=0)
    planner_workers: int = Field(8, ge=1, le=1000)
    planner_max_rounds: int = Field(5, ge=1, le=50)
    lease_s: float = Field(60.0, ge=1)
    due_interval_s: float = Field(1.0, ge=0.05)
    reannounce_interval_s: float = Field(10.0, ge=0.1)
    timezone: str = "Europe/Berlin"
    """The owners' time zone: no record carries one."""

    # This machine
    state_dir: Path = Path(".projector")
    cache_dir: Path = Field(default_factory=default_cache_dir)
    postgres_port: int | None = Field(None, ge=1, le=65535)
    """Port of the embedded PostgreSQL; unset: the one used before, or a free one."""
    kafka_port: int | None = Field(None, ge=1, le=65535)
    metrics_port: int | None = Field(None, ge=0, le=65535)
    """Port on loopback for /metrics of a stream; 0 chooses a free one."""
    log_level: str = Field("info", pattern=r"^(debug|info|warning|error)$")
    log_format: str = Field("auto", pattern=r"^(auto|json|console)$")

    @field_validator("apps", mode="before")
    @classmethod
    def _split_apps(cls, value: object) -> object:
        if isinstance(value, str):
            value = tuple(part.strip() for part in value.split(",") if part.strip())
        if isinstance(value, (tuple, list)):
            if not value:
                raise ValueError("name at least one app")
            for app in value:
                # An app is part of a topic's name, so Kafka's rule for names holds.
                if not app or not all(c.isascii() and (c.isalnum() or c in "._-") for c in app):
                    raise ValueError(f"{app!r} cannot be part of a topic name")
            return tuple(dict.fromkeys(value))
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{value!r} is no time zone of the IANA database") from None
        return value

    @property
    def admin_url(self) -> str:
        return self.admin_database_url.get_secret_value() or self.database_url.get_secret_value()

    def require_database(self) -> str:
        """The database URL; raises ConfigError when it is not set."""
        url = self.database_url.get_secret_value()
        if not url:
            raise ConfigError("PROJECTOR_DATABASE_URL is not set", "set it to a postgresql:// URL")
        return url

    def require_replication(self) -> str:
        """The URL of the replication connection; raises ConfigError when neither is set."""
        return self.replication_url.get_secret_value() or self.require_database()

    def require_kafka(self) -> str:
        """The brokers; raises ConfigError when they are not set."""
        if not self.kafka_bootstrap_servers:
            raise ConfigError("PROJECTOR_KAFKA_BOOTSTRAP_SERVERS is not set", "set it to host:port[,host:port]")
        return self.kafka_bootstrap_servers

    def environment(self) -> dict[str, str]:
        """The settings that differ from their defaults as environment variables, for a child process."""
        result = {}
        for name, value in self:
            if value != type(self).model_fields[name].get_default(call_default_factory=True):
                text = value.get_secret_value() if isinstance(value, SecretStr) else value
                text = ",".join(text) if isinstance(text, tuple) else str(text)
                result[f"PROJECTOR_{name.upper()}"] = text
        return result


def load_settings() -> Settings:
    """Reads the environment; raises ConfigError naming each variable that is wrong."""
    try:
        return Settings()  # type: ignore[call-arg]  # every field has a default
    except ValidationError as error:
        problems = "; ".join(
            f"PROJECTOR_{str(e['loc'][0]).upper()}: {e['msg']}" if e["loc"] else e["msg"] for e in error.errors()
        )
        raise ConfigError(problems) from None
