"""Settings: environment variables with the prefix PROJECTOR_, validated once at start."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from projector.errors import ConfigError

# What missions can read and write today; `PROJECTOR_APPS` names others.
DEFAULT_APPS = ("ai", "companion", "notes", "todo", "calendar", "journal", "kontext", "profile")

WITHOUT_SERVERS = frozenset({"llm"})
"""Streams that use neither PostgreSQL nor Kafka."""

DEVELOPMENT_SERVICE_KEY = "dev-service-key"

_SASL = ("kafka_sasl_mechanism", "kafka_sasl_username", "kafka_sasl_password")
_OF_CERTIFICATE = ("kafka_ssl_keyfile", "kafka_ssl_keyfile_password")
_SSL = ("kafka_ssl_cafile", "kafka_ssl_certfile", *_OF_CERTIFICATE)


def default_cache_dir() -> Path:
    """The user's cache folder, where the embedded servers are kept once fetched."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "projector"


def time_zone(name: str) -> ZoneInfo:
    """The zone of the IANA database; raises ValueError for what is none, or another one on each machine."""
    try:
        if name.partition("/")[0] not in {"localtime", "posixrules", "posix", "right", "Factory"}:
            return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        pass
    raise ValueError(f"{name!r} is no time zone of the IANA database")


class Settings(BaseSettings):
    """Everything that can be set. Each field is read from `PROJECTOR_<FIELD>`."""

    # Hidden: an error about one setting would otherwise print them all, secrets too.
    model_config = SettingsConfigDict(env_prefix="PROJECTOR_", extra="ignore", frozen=True, hide_input_in_errors=True)

    # Servers
    database_url: SecretStr = SecretStr("")
    """Login of all streams: a role without superuser, member of the projector_* roles."""
    admin_database_url: SecretStr = SecretStr("")
    """Only for `projector migrate` and `projector doctor`; default: database_url."""
    replication_url: SecretStr = SecretStr("")
    """Login with REPLICATION for the slot; default: database_url."""
    kafka_bootstrap_servers: str = ""
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    kafka_sasl_username: str = ""
    kafka_sasl_password: SecretStr = SecretStr("")
    kafka_ssl_cafile: str = ""
    """PEM file of the authorities that the brokers' certificates must come from; default: the system's."""
    kafka_ssl_certfile: str = ""
    """PEM file of our own certificate, when the brokers ask for one."""
    kafka_ssl_keyfile: str = ""
    """PEM file of its key; default: the key is in the certificate's file."""
    kafka_ssl_keyfile_password: SecretStr = SecretStr("")

    # Topics and slot
    topic_prefix: str = Field("projector", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    topic_partitions: int = Field(4, ge=1, le=1024)
    topic_replication_factor: int = Field(1, ge=1, le=32767)
    max_message_bytes: int = Field(8 * 1024 * 1024, ge=64 * 1024)
    apps: Annotated[tuple[str, ...], NoDecode] = DEFAULT_APPS
    slot_name: str = Field("projector", pattern=r"^[a-z0-9_]{1,63}$")
    publication_name: str = Field("projector", pattern=r"^[a-z0-9_]{1,63}$")
    heartbeat_s: float = Field(1.0, ge=0.05, le=60)
    """How often a heartbeat goes through the WAL: the grain of staleness on an idle database."""
    fill_rows_per_s: int = Field(0, ge=0)
    """Most rows a second that are published out of the table (backfill, healed gap); 0: as fast as it goes."""
    slot_warn_bytes: int = Field(1024**3, ge=1)
    """Warn when the slot keeps this much WAL."""
    slot_warn_s: float = Field(3600.0, ge=0)
    """Warn when the slot would be invalidated within this time at the present rate of writing."""

    # Planner
    llm_base_url: str = ""
    """An OpenAI-compatible endpoint, up to and without /v1/chat/completions."""
    llm_api_key: SecretStr = SecretStr("")
    llm_model: str = "mana/reasoning"
    llm_timeout_s: float = Field(120.0, gt=0)
    llm_calls_per_provider: int = Field(4, ge=1)
    """So many calls of the planner at once for each provider of its chains; others wait, within llm_timeout_s."""
    llm_config: str = ""
    """File of aliases (docs/llm.md): the planner then asks its chains itself, and `run llm` serves them."""
    llm_config_look_s: float = Field(0.0, ge=0)
    """Seconds between two looks at that file, which is read again when it changed; 0: only on SIGHUP and by command."""
    llm_address: str = "127.0.0.1"
    llm_port: int = Field(3025, ge=0, le=65535)
    """Port of `run llm`; 0 chooses a free one."""
    llm_max_request_bytes: int = Field(16 * 1024 * 1024, ge=1024)
    llm_max_calls: int = Field(2000, ge=1)
    """Calls that `run llm` carries at a time; further ones are told to come again."""
    llm_rate_per_s: float = Field(0.0, ge=0)
    """Requests a second that `run llm` takes of one address; 0: any number."""
    planner_workers: int = Field(8, ge=1, le=1000)
    planner_max_rounds: int = Field(5, ge=1, le=50)
    planner_format: Literal["calls", "json"] = "calls"
    """How the model says what it plans: by function calls, or, where it has none, as one JSON object."""
    planner_max_s: float = Field(900.0, gt=0)
    """How long a run may go on asking. What is planned by then is the plan; a run with nothing goes on later."""
    planner_context_tokens: int = Field(128_000, ge=0)
    """What the smallest model behind the alias takes: conversations about to outgrow it are folded. 0: never."""
    planner_compact_model: str = ""
    """The alias that folds them; default: llm_model."""
    planner_subagents: bool = False
    """Whether the model may hand parts of its work to sub-agents, which agents' policies can deny (`task`)."""
    policy_mode: Literal["off", "log-only", "enforce"] = "log-only"
    """What becomes of a call that destroys unasked or comes too often: nothing, a count and a log line, a refusal."""
    max_tokens_per_run: int = Field(100_000, ge=1)
    """What a run reserves of its agent's tokens when it begins, at most what is left, and may spend at a time."""
    max_tokens_per_day: int = Field(0, ge=0)
    """What the whole installation may spend in a day (UTC) before effects stop until the next; 0: no cap."""
    missions_with_gaps: Literal["run", "hold"] = "run"
    """What becomes of a mission with an input that cannot be read here: it runs without it and is told so, or waits."""
    news_url: str = ""
    """The API of news research, up to and without /api/v1; unset: no shallow research."""
    research_url: str = ""
    """The service of deep research, up to and without /api/v1; jobs that it has are asked for while it is set."""
    research_key: SecretStr = SecretStr("")
    """What both of them know us by."""
    deep_research: bool = False
    """Whether missions that ask for deep research get it: each job costs money."""
    research_provider: Literal["gemini-deep-research-max", "gemini-deep-research", "openai-deep-research"] = (
        "gemini-deep-research-max"
    )
    research_max_age_s: float = Field(7200.0, gt=0)
    """How long a deep research job may take before its mission goes on without it."""
    max_research_per_day: int = Field(0, ge=0)
    """Deep research jobs that the whole installation begins in a day (UTC), after which research is shallow; 0: any."""
    lease_s: float = Field(60.0, ge=1)
    due_interval_s: float = Field(1.0, ge=0.05, le=600)
    reannounce_interval_s: float = Field(10.0, ge=0.1)
    timezone: str = "Europe/Berlin"
    """The owners' time zone, unless `projector zone set` gives one of their own: no record carries one."""
    keep_runs_days: int = Field(90, ge=0, le=36_500)
    """How long finished runs are kept, with all their steps; 0: for ever. No due time fires again when one goes, but
    failures in a row, and iterations to bring back, are counted no further."""
    keep_steps_days: int = Field(30, ge=0, le=36_500)
    """How long the steps of finished runs are kept, which hold answers of the model; 0: as long as the run."""
    keep_usage_days: int = Field(400, ge=0, le=36_500)
    """How long what was spent is kept; 0: for ever. Budgets ask for the last 24 hours, which are never deleted."""
    keep_reads_days: int = Field(400, ge=0, le=36_500)
    """How long it is kept who read what users wrote; 0: for ever."""
    retention_interval_s: float = Field(60.0, ge=0.1)

    # Traces
    otlp_endpoint: str = Field("", pattern=r"^(https?://[^/]+.*)?$")
    """An OTLP/HTTP collector, up to and without /v1/traces, to which finished runs are exported as spans, without
    content; unset: nowhere. Needs the extra `otel`; what else its client takes stands in OTEL_EXPORTER_OTLP_ variables,
    as OTEL_EXPORTER_OTLP_HEADERS."""

    # Health
    api_address: str = "127.0.0.1"
    api_port: int | None = Field(None, ge=0, le=65535)
    """Port of /health/live, /health/ready and, of the timers, /internal/tick; unset: none, 0 chooses a free one."""
    service_key: SecretStr = SecretStr("")
    """What callers of /internal/ must know."""
    development: bool = False
    """Whether the service key may be left at its default, which everybody knows."""
    stall_after_s: float = Field(120.0, ge=0)
    """A part that stands still for so long, with something to do, is not live; the process then ends. 0: never."""
    ready_lag_s: float = Field(60.0, gt=0)
    """A stream that is further behind is not ready."""

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

    @field_validator("policy_mode", "planner_format", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("database_url", "admin_database_url", "replication_url")
    @classmethod
    def _connection_url(cls, value: SecretStr) -> SecretStr:
        """Refuses here what libpq would quote in an error, with a part of the password in it."""
        # Not above: importing it takes longer than most commands need.
        from psycopg import ProgrammingError
        from psycopg.conninfo import conninfo_to_dict

        advice = "in a URL, write the special characters of a password as %40 for @, %3A for :, %2F for /, %25 for %"
        if value.get_secret_value():
            try:
                parts = conninfo_to_dict(value.get_secret_value())
            except ProgrammingError:
                raise ValueError(f"is no postgresql:// URL; {advice}") from None
            ports = str(parts.get("port") or "").split(",")
            if "@" in str(parts.get("host")) or not all(port.isdigit() for port in ports if port):
                raise ValueError(f"has no host, or a port that is no number; {advice}")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        return time_zone(value).key

    @model_validator(mode="after")
    def _whole_kafka_connection(self) -> Self:
        """What is set must be used, and what is used must be set: half a connection is a setting forgotten."""

        def name(setting: str) -> str:
            return f"PROJECTOR_{setting.upper()}"

        def value(setting: str) -> str:
            found = getattr(self, setting)
            return found.get_secret_value() if isinstance(found, SecretStr) else str(found)

        protocol = f"{name('kafka_security_protocol')}={self.kafka_security_protocol}"
        for setting in _SASL:
            if self.kafka_sasl and not value(setting):
                raise ValueError(f"{protocol} needs {name(setting)}")
            if not self.kafka_sasl and value(setting):
                raise ValueError(f"{name(setting)} is set, which {protocol} does not use")
        for setting in _SSL:
            if not self.kafka_tls and value(setting):
                raise ValueError(f"{name(setting)} is set, which {protocol} does not use")
        for setting in _OF_CERTIFICATE:
            if value(setting) and not self.kafka_ssl_certfile:
                raise ValueError(f"{name(setting)} is set without {name('kafka_ssl_certfile')}")
        return self

    @property
    def runs_per_user(self) -> int:
        """So many runs of one user a planner carries at once: however long their calls take, they leave places to
        others, in its pool and, where it asks chains itself, at each provider. Of a single place nothing can be left.
        """
        places = self.planner_workers
        if self.llm_config:
            places = min(places, self.llm_calls_per_provider)
        return max(1, places // 2)

    @property
    def kafka_sasl(self) -> bool:
        """Whether Kafka asks for user name and password."""
        return self.kafka_security_protocol.startswith("SASL_")

    @property
    def kafka_tls(self) -> bool:
        """Whether the connections to Kafka are encrypted."""
        return self.kafka_security_protocol.endswith("SSL")

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

    def require_llm_config(self) -> Path:
        """The file of aliases; raises ConfigError when it is not set."""
        if not self.llm_config:
            raise ConfigError("PROJECTOR_LLM_CONFIG is not set", "name a file of aliases in it, as deploy/llm.yaml")
        return Path(self.llm_config)

    def require_service_key(self, why: str = "with PROJECTOR_API_PORT the timers take commands") -> str:
        """The service key; raises ConfigError for none, or for the one that everybody knows, outside development."""
        key = self.service_key.get_secret_value()
        if self.development:
            return key or DEVELOPMENT_SERVICE_KEY
        if key in ("", DEVELOPMENT_SERVICE_KEY):
            raise ConfigError(
                f"PROJECTOR_SERVICE_KEY is {'the known default' if key else 'not set'}, and {why}",
                "set PROJECTOR_SERVICE_KEY or PROJECTOR_SERVICE_KEY_FILE to a secret of your own, or, on a machine of"
                " your own, PROJECTOR_DEVELOPMENT=true",
            )
        return key

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
    """Reads the environment, and secrets from the files it names; raises ConfigError for what is wrong, by name."""
    try:
        return Settings(**_secrets_in_files())  # type: ignore[arg-type]  # all of them are SecretStr
    except ValidationError as error:
        problems = "; ".join(
            f"PROJECTOR_{str(e['loc'][0]).upper()}: {e['msg']}" if e["loc"] else e["msg"] for e in error.errors()
        )
        raise ConfigError(problems) from None


def _secrets_in_files() -> dict[str, SecretStr]:
    """The secrets that `PROJECTOR_<FIELD>_FILE` names a file of, as orchestrators mount them, by field."""
    environment = {name.upper(): value for name, value in os.environ.items()}
    secrets = {}
    for field, info in Settings.model_fields.items():
        variable = f"PROJECTOR_{field.upper()}"
        file = environment.get(f"{variable}_FILE")
        if info.annotation is not SecretStr or not file:
            continue
        if environment.get(variable):
            raise ConfigError(f"both {variable} and {variable}_FILE are set", "keep one of them")
        try:
            # Whoever writes a file with an editor or `echo` ends it with a newline.
            text = Path(file).read_text("utf-8").rstrip("\r\n")
        except OSError as error:
            raise ConfigError(f"{variable}_FILE={file}: {error.strerror}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{variable}_FILE={file}: not a text in UTF-8") from None
        if not text:
            raise ConfigError(f"{variable}_FILE={file}: the file is empty")
        secrets[field] = SecretStr(text)
    return secrets
