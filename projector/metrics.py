"""Every metric the streams export, in one place: base units, bounded labels, never a user's id."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from projector.logging import get

if TYPE_CHECKING:
    from projector.config import Settings

__all__ = ["Counter", "Gauge", "Histogram", "serve"]


def serve(settings: Settings) -> None:
    """Serves /metrics on loopback when a port is set."""
    if settings.metrics_port is None:
        return
    server, _ = start_http_server(settings.metrics_port, addr="127.0.0.1")
    get("metrics").info("metrics listening", port=server.server_port)


# Every stream

HTTP_REQUESTS = Counter("mana_ai_http_requests_total", "Requests answered", ["method", "path", "status"])
HTTP_SECONDS = Histogram(
    "mana_ai_http_request_duration_seconds",
    "Time to answer a request",
    ["method", "path", "status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
PART_STANDING_SECONDS = Gauge(
    "projector_part_standing_seconds", "How long a part stands still although there is something to do", ["part"]
)
STALLS = Counter("projector_stalls_total", "Times that a part stood still for longer than it may", ["part"])

# CDC

CDC_RECORDS = Counter("projector_cdc_records_total", "Records that Kafka has acknowledged")
CDC_BATCHES = Counter("projector_cdc_batches_total", "Produce batches that Kafka has acknowledged")
CDC_SKIPPED = Counter("projector_cdc_skipped_total", "Records read again and found in their topic by tail recovery")
CDC_IGNORED = Counter("projector_cdc_ignored_total", "Events of the slot that no topic takes", ["kind"])
CDC_DEAD_LETTERS = Counter("projector_cdc_dead_letters_total", "Changes that no topic can hold", ["reason"])
CDC_LETTERS_STORED = Gauge(
    "projector_cdc_dead_letters_stored", "Changes in no topic that wait for somebody, as the views see them", ["reason"]
)
CDC_RESTARTS = Counter("projector_cdc_restarts_total", "Sessions ended by a fault and begun again", ["reason"])
CDC_STATUS_UPDATES = Counter("projector_cdc_status_updates_total", "Standby status updates sent to Postgres")
CDC_IN_FLIGHT = Gauge("projector_cdc_in_flight_bytes", "Bytes read and not yet acknowledged by Kafka")
CDC_HELD = Gauge(
    "projector_cdc_held_seconds", "How long records have waited for their commit to become visible, 0 when none do"
)
CDC_CONFIRMED_LSN = Gauge("projector_cdc_confirmed_lsn_bytes", "LSN last confirmed to Postgres, as a byte position")
CDC_COMMIT_TIME = Gauge(
    "projector_cdc_last_commit_timestamp_seconds", "Commit time of the newest transaction read, Unix time"
)
CDC_WATERMARK_TIME = Gauge(
    "projector_cdc_watermark_timestamp_seconds", "All that committed before this Unix time is in the topics"
)
CDC_FILLED = Counter("projector_cdc_filled_total", "Records published out of the table", ["reason"])
CDC_FILL_ROWS_LEFT = Gauge("projector_cdc_fill_rows_left", "Rows that the running fill has still to publish")
CDC_STREAMING = Gauge("projector_cdc_streaming", "1 while this process holds the slot and streams, else 0")
CDC_SLOT_RETAINED = Gauge("projector_cdc_slot_retained_bytes", "WAL that the server keeps for the slot")
CDC_SLOT_SAFE = Gauge(
    "projector_cdc_slot_safe_bytes", "WAL that may still be written before the slot is invalidated; +Inf: no limit"
)
CDC_SLOT_SECONDS = Gauge(
    "projector_cdc_slot_seconds_to_invalidation",
    "How long the slot lasts if it does not move, at the present rate of writing; +Inf: no end in sight",
)
# Every stream exports them all: one that does not look knows of no limit, and must not be taken for an alarm.
CDC_SLOT_SAFE.set(math.inf)
CDC_SLOT_SECONDS.set(math.inf)
CDC_SLOT_WAL_STATUS = Gauge("projector_cdc_slot_wal_status", "1 for the slot's present wal_status", ["status"])
CDC_SLOT_ACTIVE = Gauge("projector_cdc_slot_active", "1 while some process reads the slot, else 0")
CDC_OLDEST_TRANSACTION = Gauge(
    "projector_cdc_oldest_transaction_seconds", "Age of the oldest open transaction that writes, 0 without one"
)


# Views

VIEW_CHANGES = Counter("projector_view_changes_total", "Changes folded and committed", ["view"])
VIEW_ROWS = Counter("projector_view_rows_total", "Rows written: many changes of one record make one", ["view"])
VIEW_DEAD_LETTERS = Counter("projector_view_dead_letters_total", "Records that could not be folded", ["view", "reason"])
VIEW_LETTERS_STORED = Gauge(
    "projector_view_dead_letters_stored",
    "Dead letters that wait for somebody, those of all processes",
    ["view", "reason"],
)
VIEW_CAME_AGAIN = Counter(
    "projector_view_came_again_total",
    "Records below the place that their partition had reached: looked up in the log",
    ["view"],
)
VIEW_NOTICED = Counter(
    "projector_view_noticed_total", "Oddities of changes that were folded all the same", ["view", "kind"]
)
VIEW_SWAPS_LOST = Counter(
    "projector_view_swaps_lost_total", "Batches void because another moved the position", ["view"]
)
VIEW_RESTARTS = Counter("projector_view_restarts_total", "Sessions ended by a fault and begun again", ["view"])
VIEW_RUNNING = Gauge(
    "projector_view_running", "1 while the view consumes; 0 when it waits for a server or has stopped", ["view"]
)
VIEW_STALENESS_SECONDS = Gauge(
    "projector_view_staleness_seconds",
    "Everything committed longer ago is in the view, as far as this process works for it; NaN while it does not",
    ["view"],
)
VIEW_APPLIED_LSN = Gauge(
    "projector_view_applied_lsn_bytes",
    "LSN of the newest watermark that the view has applied, as a byte position",
    ["view"],
)
VIEW_TRANSACTION_SECONDS = Histogram("projector_view_transaction_seconds", "Time of one batch's transaction", ["view"])
VIEW_COMMIT_TO_ROW_SECONDS = Histogram(
    "projector_view_commit_to_row_seconds",
    "From a change's commit in the source to its committed row, newest change of each batch",
    ["view"],
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 60, 600),
)

# Planner and write-back

AGENT_DECISIONS = Counter(
    "mana_ai_agent_decisions_total", "What the gates and the write-back decided about a run", ["decision"]
)
EFFECTS_STOPPED = Gauge(
    "mana_ai_effects_stopped", "1 while neither the model is asked nor a plan written, by what stops it", ["cause"]
)
PLANNER_RUNS = Counter("mana_ai_planner_runs_total", "Attempts of runs by how they ended", ["result"])
PLANS_PRODUCED = Counter("mana_ai_plans_produced_total", "Conversations with the model that ended in a stored plan")
PLANS_WRITTEN_BACK = Counter("mana_ai_plans_written_back_total", "Plans written into the log, without failures")
PARSE_FAILURES = Counter(
    "mana_ai_parse_failures_total", "Attempts whose conversation with the model ended without a plan, for any reason"
)
MISSION_ERRORS = Counter("mana_ai_mission_errors_total", "Attempts that a fault of ours ended")
PLANNER_RUNNING = Gauge("mana_ai_planner_running", "Runs that this worker carries out now.")
PLANNER_ROUNDS = Histogram("mana_ai_planner_rounds", "Rounds of a planned run", buckets=(1, 2, 3, 4, 5))
PLANNER_DATABASE_ERRORS = Counter(
    "mana_ai_planner_database_errors_total", "Times that the planner or the write-back could not reach the database"
)
TICKS = Counter("mana_ai_ticks_total", "Passes that looked for missions that are due")
TICK_SECONDS = Histogram(
    "mana_ai_tick_duration_seconds", "Time of such a pass", buckets=(0.1, 0.5, 1, 2, 5, 10, 30, 60, 120)
)
RUNS_OPENED = Counter("mana_ai_runs_opened_total", "Runs that this scheduler opened.")
RUNS_REANNOUNCED = Counter("mana_ai_runs_reannounced_total", "Runs announced again because nobody came for them.")
POLICY_DECISIONS = Counter(
    "mana_ai_policy_decisions_total",
    "Calls that held, by what the policy of calls says",
    ["decision", "reason", "mode"],
)
INJECTION_MARKERS = Counter(
    "mana_ai_injection_markers_total", "Marks of an injection in text of others", ["source", "marker"]
)
RETENTION_DELETED = Counter(
    "mana_ai_retention_deleted_total",
    "Rows of the ledger deleted, or runs emptied of prompts and answers, because of their age",
    ["kind"],
)
TRACES = Counter(
    "mana_ai_traces_total", "Finished runs by what became of their trace: exported, failed, dropped", ["result"]
)
LLM_CALLS = Counter("mana_ai_llm_calls_total", "Calls of the model by their end", ["result"])
LLM_SECONDS = Histogram(
    "mana_ai_planner_request_duration_seconds",
    "Time that the model took to answer",
    buckets=(0.1, 0.5, 1, 2, 5, 10, 20, 40, 80, 160),
)
LLM_TOKENS = Counter("mana_ai_llm_tokens_total", "Tokens that the endpoint reported", ["kind"])
TOOL_CALLS = Counter("mana_ai_tool_calls_total", "Calls of tools by the model", ["tool", "outcome"])
REMINDERS = Counter(
    "mana_ai_reminders_emitted_total",
    "What the model was reminded of, by what and how sharply",
    ["producer", "severity"],
)
GUARDRAILS = Counter(
    "mana_ai_guardrails_total", "Prompts and calls that a limit warned of or kept out", ["guardrail", "severity"]
)
COMPACTIONS = Counter("mana_ai_compactions_triggered_total", "Conversations that were folded to fit the model")
COMPACTED_TURNS = Histogram(
    "mana_ai_compacted_turns", "Messages folded at a time", buckets=(1, 2, 4, 8, 16, 32, 64, 128)
)
MISSIONS_WITHOUT_TIMES = Gauge(
    "mana_ai_missions_without_times",
    "Active missions that never run, because their nextRunAt or their cron expression is no time",
    ["cause"],
)
ITERATIONS_RESTORED = Counter(
    "mana_ai_iterations_restored_total", "Iterations put back that a device had dropped from its mission"
)
INPUTS = Counter(
    "mana_ai_inputs_total", "Inputs that missions link, by kind and what became of them", ["module", "outcome"]
)
RESEARCH_SUBMITTED = Counter("mana_ai_research_jobs_submitted_total", "Deep research jobs submitted", ["provider"])
RESEARCH_COMPLETED = Counter("mana_ai_research_jobs_completed_total", "Deep research jobs that were done", ["provider"])
RESEARCH_FAILED = Counter(
    "mana_ai_research_jobs_failed_total", "Deep research jobs that failed, or were given up", ["provider"]
)
RESEARCH_PENDING_SKIPS = Counter(
    "mana_ai_research_jobs_pending_skips_total", "Times that a run was put off because its deep research goes on"
)
RESEARCH_CREDITS = Counter(
    "mana_ai_research_credits_total", "What services said that the submitted jobs cost", ["provider"]
)
RESEARCH_CAPPED = Counter(
    "mana_ai_research_capped_total", "Times that shallow research stood in, because the day's deep jobs were used up"
)
RESEARCH_SHALLOW = Counter("mana_ai_research_shallow_total", "Shallow research by its end", ["result"])
WRITEBACK_REFUSED = Counter("mana_ai_writeback_refused_total", "Plans and first times that the database refused")

# The router of language models: labels are names of the file of aliases, `direct` or `other` for any others

LLM_REQUESTS = Counter(
    "llm_requests_total", "Calls by their end: ok, cancelled, or the kind of error", ["alias", "outcome"]
)
LLM_ATTEMPTS = Counter(
    "llm_attempts_total", "Entries of chains, by what became of each turn", ["provider", "model", "outcome", "kind"]
)
LLM_ATTEMPT_SECONDS = Histogram(
    "llm_attempt_seconds",
    "From asking a provider to its answer, of a stream to its first byte, or to the failure",
    ["provider", "model", "outcome"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160),
)
LLM_FIRST_BYTE_SECONDS = Histogram(
    "llm_ttft_seconds",
    "From the call to the first byte of its stream, whatever was tried before",
    ["alias"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80),
)
LLM_ROUTED_TOKENS = Counter(
    "llm_tokens_total", "Tokens that providers reported", ["alias", "provider", "model", "type"]
)
LLM_COST = Counter(
    "llm_cost_dollars_total", "What calls cost by the prices of the file, in US dollars", ["alias", "provider", "model"]
)
LLM_FALLBACKS = Counter(
    "llm_fallback_total", "Entries that did not serve, and which was asked instead", ["from", "to", "reason"]
)
LLM_ALARMS = Counter(
    "llm_alarms_total", "Failures that only a person can mend: auth, payment, not_found", ["provider", "kind"]
)
LLM_CIRCUIT_STATE = Gauge("llm_breaker_state", "0 closed, 1 open, 2 half open", ["key"])
LLM_CIRCUIT_CHANGES = Counter("llm_breaker_transitions_total", "Changes of circuits", ["key", "to", "cause"])
LLM_PROBES = Counter("llm_probe_total", "Probes of providers: ok, auth, failed", ["provider", "result"])
LLM_RELOADS = Counter("llm_alias_reload_total", "Readings of the file of aliases: ok, failed", ["result"])
LLM_GENERATION = Gauge("llm_alias_generation", "How often the file of aliases was read without an error")
LLM_SKIPPED_EVENTS = Counter("llm_skipped_events_total", "Events of streams that were no JSON", ["provider"])
LLM_REFUSED = Counter("llm_refused_total", "Requests turned away at the door: key, rate, busy, size, form", ["reason"])
LLM_STREAMS = Gauge("llm_streams_open", "Streams that are being passed on now")
