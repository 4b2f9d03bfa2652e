"""Errors that a person can act on.

The docstring of each class is the remedy: it is printed after the message, so it speaks to the operator.
A message names the setting, file or object concerned; a remedy passed by the raiser replaces the general one.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal


class ProjectorError(Exception):
    """Look at the log of the part that failed; run `projector doctor` to check the servers."""

    exit_status = 1

    def __init__(self, message: str, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy if remedy is not None else inspect.cleandoc(type(self).__doc__ or "")

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class StalledError(ProjectorError):
    """Start the stream again; it goes on where it was. The tasks in the log above say what it waited for."""

    exit_status = 3


# Settings and servers


class ConfigError(ProjectorError):
    """Correct the setting and start again; `projector config` prints the settings in force."""

    exit_status = 2


class DatabaseUnavailableError(ProjectorError):
    """Check PROJECTOR_DATABASE_URL, and that the server runs and accepts this role."""


class BrokerUnavailableError(ProjectorError):
    """Check PROJECTOR_KAFKA_BOOTSTRAP_SERVERS, and that the broker runs and is reachable from here."""


class BrokerRefusedError(BrokerUnavailableError):
    """Check PROJECTOR_KAFKA_SECURITY_PROTOCOL and the PROJECTOR_KAFKA_SASL_ and PROJECTOR_KAFKA_SSL_ settings."""


class NotMigratedError(ProjectorError):
    """Run `projector migrate` with PROJECTOR_ADMIN_DATABASE_URL naming a role that may create schemas and roles."""


class PrivilegeError(ProjectorError):
    """Run `projector migrate` as a role that may grant it; `projector doctor` lists what is missing."""


class TopicSettingsError(ProjectorError):
    """Change the topic to the setting named, or use another PROJECTOR_TOPIC_PREFIX."""


class CheckFailedError(ProjectorError):
    """Mend what is listed above, top first, and run `projector doctor` again."""


# The replication slot


class ReplicationError(ProjectorError):
    """The stream reconnects by itself; when it goes on failing, read the server's log at that time."""


class PublicationMissedError(ProjectorError):
    """`projector migrate`, then `projector slot drop --yes`, and start the stream: the rows come out of the table."""


class MalformedMessageError(ReplicationError):
    """The server sent bytes that are no pgoutput version 1 message: is it PostgreSQL 15 to 18?"""


class HiddenRowsError(ReplicationError):
    """Run `alter role projector_cdc bypassrls` as a superuser: rows hidden from it would be missing in the topics."""


class ForeignSourceError(ReplicationError):
    """If this server is the one to follow from now on, run `projector run cdc --adopt` once; see docs/cdc.md."""


class SlotUseError(ReplicationError):
    """Look at `projector slot status`; a slot is dropped only while nobody reads it."""


# The embedded stack


class EmbeddedError(ProjectorError):
    """Read the log lines above; if data of an earlier start are the cause, `projector dev --reset` begins anew."""


class FetchError(EmbeddedError):
    """Connect to the network once, or set KAFKA_HOME, or give servers by PROJECTOR_KAFKA_BOOTSTRAP_SERVERS."""


class ChecksumError(EmbeddedError):
    """Delete the file and start again; if it comes back the same, do not trust where it comes from."""


class PortTakenError(EmbeddedError):
    """Stop what listens there, or leave the port unset: a free one is then chosen."""


class StateInUseError(EmbeddedError):
    """Stop the other stack, or choose another PROJECTOR_STATE_DIR."""


# Views


class FoldVersionError(ProjectorError):
    """Rebuild the view: its rows were folded by another version of the rules."""


class StageTimeoutError(ProjectorError):
    """Look at the log of the stream named; it did not do its part in time."""


class RebuildBusyError(ProjectorError):
    """Wait until it has ended, or stop it; `projector rebuild status` shows how far it is."""


class SpareInUseError(ProjectorError):
    """Add --yes to give it up; `projector rebuild status` shows what it is."""

    exit_status = 2


class NothingRebuiltError(ProjectorError):
    """Run `projector rebuild start`, which fills it or goes on where it was; `projector rebuild status` shows it."""


class RunContinuedError(ProjectorError):
    """Let that process end, or stop it and run `projector verify --resume` again."""


class DifferencesError(ProjectorError):
    """Look at the records named: their rows are wrong until the view is rebuilt, and the cause is a bug of ours."""


class LettersRemainError(ProjectorError):
    """Read `projector dlq show ID`, mend the cause and retry; `projector dlq drop ID --yes` gives a record up."""


# Planner


class EffectsStoppedError(ProjectorError):
    """`projector effects start` lets calls of the model and writes happen again; a spend cap ends with the UTC day."""


class NothingPlannedError(ProjectorError):
    """What is said stands against a run of this mission as well; mend that first."""


class ContentRefusedError(PrivilegeError):
    """Grant the role projector_content to the login of who may read what users wrote; or leave --content out."""


class NotReplayableError(ProjectorError):
    """Nothing to mend: `projector runs show ID` shows what is kept. A run is replayed by the release that made it, and
    while its prompts and answers are kept (PROJECTOR_KEEP_STEPS_DAYS)."""


class ReplayDiffersError(ProjectorError):
    """This release leads conversations otherwise than the one that made the run; `--content` shows where they part."""


class PlansDifferError(ProjectorError):
    """Nothing to mend: `--content` shows the values."""


class LeaseLostError(ProjectorError):
    """Nothing to do: another worker took the run over, and this one leaves it alone."""


class PlanVersionError(ProjectorError):
    """Run `projector run sink` of a version that writes such plans, then `projector runs retry --state planned`."""


class RunsRefusedError(ProjectorError):
    """Read `projector runs show RUN-ID`: it tells the state of the run, and what may become of it."""


class RowSecurityError(ProjectorError):
    """Take BYPASSRLS and superuser from the role: it must be held to the rows of one user."""


class StreamStoppedError(ProjectorError):
    """Start the stream again; it continues from the ledger. The log above says what stopped it."""


class ChatError(ProjectorError):
    """Check PROJECTOR_LLM_BASE_URL and the endpoint's own log; the run is tried again by itself.

    `prompt_tokens`, `completion_tokens` and `cost` (US dollars) are what answers of no use cost all the same,
    `route` are the attempts that were made, and `seconds` is how long they took. `detail` are the endpoint's own words,
    which may quote the prompt: content, as that is, for no log and no reason of a run.
    """

    transient = True
    kind = ""
    detail = ""
    status: int | None = None
    prompt_tokens = 0
    completion_tokens = 0
    cost = 0.0
    route: tuple[str, ...] = ()
    seconds = 0.0


class ChatUnavailableError(ChatError):
    """Check that the endpoint at PROJECTOR_LLM_BASE_URL runs and has capacity; the run is tried again by itself."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ChatAnswerError(ChatError):
    """The endpoint answered, but not as an OpenAI-compatible one; the run is tried again by itself."""

    def __init__(self, message: str, prompt_tokens: int = 0, completion_tokens: int = 0) -> None:
        super().__init__(message)
        self.prompt_tokens = prompt_tokens
        self.completion_tokens = completion_tokens


class ChatRefusedError(ChatError):
    """Check PROJECTOR_LLM_API_KEY and PROJECTOR_LLM_MODEL: the endpoint refuses this request each time."""

    transient = False


class ResearchError(ProjectorError):
    """Check PROJECTOR_NEWS_URL and PROJECTOR_RESEARCH_URL, and the services' own logs; missions run without it."""


class ResearchUnavailableError(ResearchError):
    """Check that the research service runs and knows PROJECTOR_RESEARCH_KEY; a job is asked for again by itself."""


class ResearchRefusedError(ResearchError):
    """The research service does not take this question, or does not know the job; the mission runs without it."""


# Language models


class AliasConfigError(ConfigError, ValueError):
    """Correct the line named, then `projector llm check`; a process that runs goes on with what it had read before."""


class RouteError(ProjectorError):
    """Read the attempts listed: each names the provider, what became of it, and after how long.

    `kind` names the failure on the wire and in metrics, `http_status` is what callers of the service get. No message
    holds a key or a part of a prompt; `detail` is the provider's own text, for the caller alone, never for a log.
    `usage` is what an answer of no use cost all the same, as the provider tells it. Where a chain is at its end,
    `last_error` is what came of the last entry asked.
    """

    kind = "unknown"
    http_status = 502
    last_error: RouteError | None = None

    def __init__(
        self,
        message: str,
        *,
        provider: str = "",
        model: str = "",
        status: int | None = None,
        retry_after: float | None = None,
        upstream_code: str = "",
        request_id: str = "",
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.provider = provider
        self.model = model
        self.status = status
        self.retry_after = retry_after
        self.upstream_code = upstream_code
        self.request_id = request_id
        self.detail = detail
        self.requested = ""
        self.attempts: tuple[Any, ...] = ()
        self.usage: Any = None


class UnknownAliasError(RouteError, KeyError):
    """Ask for one of the aliases listed, or add it to the file that PROJECTOR_LLM_CONFIG names."""

    kind = "unknown_alias"
    http_status = 404


class NoModelError(RouteError):
    """Name an alias in `model`, or set `default` in the file that PROJECTOR_LLM_CONFIG names."""

    kind = "bad_request"
    http_status = 400


class UnreachableError(RouteError):
    """Check the provider's base_url and that it runs; its circuit closes by itself once it answers."""

    kind = "unreachable"


class ModelTimeoutError(RouteError):
    """Raise budgets.first_byte_s, or timeout_s of the entry, if this model is always that slow."""

    kind = "timeout"
    http_status = 504


class RateLimitError(RouteError):
    """Ask less often, raise the limit at the provider, or add an entry of another provider to the chain."""

    kind = "rate_limit"
    http_status = 429


class UpstreamError(RouteError):
    """The provider failed; look at its status page if it goes on."""

    kind = "upstream"


class AnswerFormatError(RouteError):
    """Check base_url and kind of the provider: what answered there does not speak its format."""

    kind = "protocol"


class ModelNotFoundError(RouteError):
    """The provider has no such model any more: `projector llm check --live` compares the file with what it offers."""

    kind = "not_found"


class ContextLengthError(RouteError):
    """Send less, or add an entry with a larger context to the end of the chain."""

    kind = "context_length"
    http_status = 400


class BlockedError(RouteError):
    """The provider's content policy refused this request; it is not asked of anybody else."""

    kind = "blocked"
    http_status = 422


class BadRequestError(RouteError):
    """Correct the request: no provider would take it."""

    kind = "bad_request"
    http_status = 400


class ProviderAuthError(RouteError):
    """Renew the provider's key, in the variable or file that api_key_env or api_key_file names, and reload."""

    kind = "auth"


class PaymentError(RouteError):
    """Settle the account at the provider, or let the chain go on with `policy: {payment: next}`."""

    kind = "payment"


class CapabilityError(RouteError):
    """No entry of this chain can do what was asked (tools, json, vision): add one that can, or ask another alias."""

    kind = "capability"
    http_status = 400


class NoHealthyProviderError(RouteError):
    """Every entry of the chain failed or rests; ask again after `retry_after`, see `projector llm health`."""

    kind = "no_healthy_provider"
    http_status = 503


class DeadlineError(RouteError):
    """The time of the whole call ran out: give it more (budgets.deadline_s), or shorten the chain."""

    kind = "deadline"
    http_status = 504


class HardWiredModelError(ProjectorError):
    """Name an alias instead, or allow the place in the allow-list with the reason why it may name a model."""


# Reports of checks


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found: what is wrong, why that matters, and how to mend it, one line each."""

    severity: Literal["error", "warning"]
    what: str
    why: str
    remedy: str


# CDC


class TableShapeError(ReplicationError):
    """Restore the column named; rows written meanwhile come after `projector slot drop --yes` (docs/cdc.md)."""


# Positions of views


class ForeignClusterError(ProjectorError):
    """Point PROJECTOR_KAFKA_BOOTSTRAP_SERVERS at the cluster named, or rebuild the view from this one."""


class PositionOutOfRangeError(ProjectorError):
    """The topic was made anew or lost its beginning: refill it from sync_changes, then rebuild the view."""


class TopicRecreatedError(ProjectorError):
    """If `run cdc` is refilling the topic, start the view again then; otherwise rebuild it from the new topic."""


class NotReachedError(ProjectorError):
    """Look at the log of `projector run views`: the view stands still or is further behind than the time allowed."""


class UnknownRecordError(ProjectorError):
    """Check user, app, table and record id: neither the topic nor sync_changes nor the view knows the record."""


class HistoryCutError(ProjectorError):
    """Ask for a later place, or for a time: sync_changes still has the changes, but no offsets and no LSNs."""


class MissingTopicError(ProjectorError):
    """Run `projector run cdc`: it makes the topics of all apps in PROJECTOR_APPS."""


# Erasure


class UserInLogError(ProjectorError):
    """Let the sync server erase the user first: from rows that are in sync_changes the views are folded again."""


class UserLeftError(ProjectorError):
    """Run it again: a stream wrote for this user meanwhile. If rows come back each time, the log still gets some."""
