"""Whether each due time became one iteration, and each stored answer was paid for once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
from psycopg.rows import dict_row

from tests.plan_faults.double import Ask, Double
from tests.plan_faults.load import Due

GRACE_S = 3.0
"""The most that lies between an answer and its step."""
RUNS = "select * from mana_ai.mission_runs where run_id = any(%s)"
STEPS = """
    select run_id::text as run, seq, kind, response, prompt_tokens + completion_tokens as tokens
    from mana_ai.run_steps where run_id = any(%s) order by run_id, seq
"""
SPENT = "select run_id::text as run, tokens_used as tokens from mana_ai.token_usage where run_id = any(%s)"
ROWS = """
    select id, record_id as mission, data, jsonb_path_query_array(data, '$.iterations[*].id') as iterations
    from sync_changes where client_id = 'mana-ai-runner' and record_id = any(%s)
"""


class Violation(AssertionError):
    """A due time was lost or ran twice, or an answer was paid for twice; the text says what."""


class Death(NamedTuple):
    """A planner ended between these two times, by time.time()."""

    earliest: float
    latest: float


class Judge:
    """`deaths` are those of planners, as they happened."""

    def __init__(self, admin_url: str, double: Double, max_attempts: int) -> None:
        self.deaths: list[Death] = []
        self.judged = 0
        self.outcomes: Counter[str] = Counter()
        self.lost = 0
        """Answers that were paid for and not stored, each because of a kill."""
        self._double = double
        self._url = admin_url
        self._max_attempts = max_attempts

    def judge(self, due: Sequence[Due]) -> list[tuple[str, str]]:
        """Judges runs that are written; returns users and missions of those that went well. Raises Violation."""
        ids = [each.run for each in due]
        with psycopg.connect(self._url, autocommit=True) as conn:
            cursor = conn.cursor(row_factory=dict_row)
            runs = {run["run_id"]: run for run in cursor.execute(RUNS, [ids]).fetchall()}
            steps = _grouped(cursor.execute(STEPS, [ids]).fetchall())
            spent = _grouped(cursor.execute(SPENT, [ids]).fetchall())
            rows = cursor.execute(ROWS, [[each.mission for each in due]]).fetchall()
        went_well = []
        for each in due:
            run = runs.get(each.run)
            if run is None:
                raise Violation(f"{each} has no run")
            try:
                self._judge(each, run, steps.get(str(each.run), []), spent.get(str(each.run), []), rows)
            except Violation as violation:
                raise Violation(f"{violation}\n{self._told(run, steps, spent)}") from None
            self.judged += 1
            if run["decision"] == "ran":
                went_well.append((each.user, each.mission))
        return went_well

    def _judge(self, due: Due, run: dict[str, Any], steps: list[Any], spent: list[Any], rows: list[Any]) -> None:
        _iteration(due, run, rows)
        asks = self._double.asks.get(str(run["run_id"]), [])
        if any(ask.uninformed for ask in asks):
            raise Violation(f"{due} was planned without the research that it wants")
        self._paid(asks, steps, spent)
        if "error" in run["plan"]:
            self._failed(run, asks)
        else:
            self.outcomes["planned"] += 1
            _planned(run, steps)

    def _paid(self, asks: list[Ask], steps: list[Any], spent: list[Any]) -> None:
        by_serial = {ask.serial: ask for ask in asks}
        stored: list[Ask] = []
        for step in steps:
            if step["kind"] != "llm":
                continue
            ask = by_serial.get(int(step["response"]["model"].removeprefix("double/")))
            if ask is None or not ask.usable or ask.tokens != step["tokens"]:
                raise Violation(f"step {step['seq']} holds an answer that was not given like that: {ask}")
            stored.append(ask)
        charged = Counter(row["tokens"] for row in spent)
        useless = [ask for ask in asks if ask.tokens and not ask.usable]
        for ask in stored:
            if ask.tokens:
                charged[ask.tokens] -= 1
        for ask in useless:
            if charged[ask.serial] == 1:
                charged[ask.serial] = 0
            else:
                self._explain_loss(ask)
        wrong = {tokens: times for tokens, times in charged.items() if times}
        if wrong:
            raise Violation(f"the budget holds what it should not, or lacks what it should hold: {wrong}")
        for ask in asks:
            if ask.usable and ask not in stored:
                self._explain_loss(ask)
        for ask in stored:
            if any(later.asked_at > ask.asked_at and later.body == ask.body for later in asks):
                raise Violation(f"asked again although its answer was stored: {ask}")

    def _explain_loss(self, ask: Ask) -> None:
        latest = ask.answered_at + GRACE_S if ask.answered_at is not None else float("inf")
        if not any(death.latest >= ask.asked_at and death.earliest <= latest for death in self.deaths):
            raise Violation(f"paid for and neither stored nor charged, and no kill explains it: {ask}")
        self.lost += 1

    def _failed(self, run: dict[str, Any], asks: list[Ask]) -> None:
        reason, error = run["reason"], run["plan"]["error"]["name"]
        self.outcomes[f"failed: {error}"] += 1
        refused = any(ask.refused for ask in asks)
        used_up = run["attempts"] >= self._max_attempts and asks and not asks[-1].usable
        began, ended = run["created_at"].timestamp(), run["planned_at"].timestamp()
        kills = sum(began <= death.latest <= ended + GRACE_S for death in self.deaths)
        vanished = run["attempts"] > self._max_attempts and kills > 1
        explained = {"ModelRefused": refused, "ModelUnavailable": used_up, "WorkersVanished": vanished}
        if not explained.get(error):
            raise Violation(f"failed, and nothing that was done to it explains that: {error}, {reason}")

    def _told(self, run: dict[str, Any], steps: Any, spent: Any) -> str:
        told = [f"{name}: {value}" for name, value in run.items() if name != "brief"]
        run_id = str(run["run_id"])
        told += [f"step {s['seq']} {s['kind']} {s['tokens']} {str(s['response'])[:300]}" for s in steps.get(run_id, [])]
        told += [f"spent {row['tokens']}" for row in spent.get(run_id, [])]
        told += [str(ask) for ask in self._double.asks.get(run_id, [])]
        told += [f"kill {death}" for death in self.deaths if death.latest >= run["created_at"].timestamp()]
        return "\n".join(f"  {line}" for line in told)


def _iteration(due: Due, run: dict[str, Any], rows: list[Any]) -> None:
    """One iteration, in the row that the run names, and in no row before that one."""
    if run["state"] != "written":
        raise Violation(f"{due} is {run['state']}: {run['reason']}")
    iteration = str(run["iteration_id"])
    mine = [row for row in rows if row["id"] == run["change_id"]]
    if len(mine) != 1:
        raise Violation(f"{due} has {len(mine)} rows")
    found = [each for each in mine[0]["data"]["iterations"] if each["id"] == iteration]
    if len(found) != 1 or not mine[0]["data"].get("nextRunAt"):
        raise Violation(f"{due} has {len(found)} iterations in its row")
    for row in rows:
        if max(Counter(row["iterations"]).values(), default=0) > 1:
            raise Violation(f"an iteration twice in one row: {row}")
    plan = run["plan"]
    status = "failed" if "error" in plan else "awaiting-review" if plan["steps"] else "approved"
    if found[0]["overallStatus"] != status or len(found[0]["plan"]) != len(plan["steps"]):
        raise Violation(f"{due} shows another iteration than was planned: {found[0]}")


def _planned(run: dict[str, Any], steps: list[Any]) -> None:
    """The plan is what the stored steps say."""
    answers = [step["response"] for step in steps if step["kind"] == "llm"]
    taken = [step["response"] for step in steps if step["kind"] == "tool" and step["response"]["success"]]
    if [step["seq"] for step in steps] != list(range(1, len(steps) + 1)):
        raise Violation(f"steps are missing: {[step['seq'] for step in steps]}")
    if run["plan"]["rounds"] != len(answers) or len(run["plan"]["steps"]) != len(taken):
        raise Violation(f"{len(answers)} answers and {len(taken)} calls taken are stored")
    called = [call["name"] for answer in answers for call in answer["toolCalls"]]
    if any(step["toolName"] not in called for step in run["plan"]["steps"]):
        raise Violation("the plan holds what the model did not call")
    if answers[-1]["toolCalls"]:
        return
    if run["plan"]["summary"] != (answers[-1]["content"] or ""):
        raise Violation("the plan's summary is another than the model's")


def _grouped(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(row["run"], []).append(row)
    return grouped


def unexpected(admin_url: str, owed: set[UUID]) -> list[tuple[Any, ...]]:
    """Runs that nobody owed, at the end of all: (run id, state, reason)."""
    with psycopg.connect(admin_url, autocommit=True) as conn:
        rows = conn.execute("select run_id, state, reason from mana_ai.mission_runs").fetchall()
    return [row for row in rows if row[0] not in owed or row[1] != "written"]
