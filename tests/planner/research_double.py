"""The two research services under a test's control, over HTTP: news that are found at once, and jobs that take time.

They check what the real ones check: the key, the user that a task belongs to, the length of a query.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Literal
from urllib.parse import unquote

import orjson
from pydantic import SecretStr

from tests.serving import Received, Serving

KEY = "research-key"
DROP = 0
"""Instead of a status: the request is carried out, and its answer lost."""

Call = Literal["submit", "poll", "discover", "search"]
FEEDS = [{"url": "https://feed.example/1", "title": "Feed", "description": ""}]
ARTICLES = [
    {
        "title": "Neues vom Garten",
        "url": "https://news.example/1",
        "excerpt": "Die Tomaten reifen.",
        "publishedAt": "2026-04-01",
        "feedUrl": "https://feed.example/1",
        "score": 0.9,
    },
    {"title": "Ohne Auszug", "url": "https://news.example/2", "excerpt": None, "publishedAt": None},
]
ANSWER = {
    "query": "q",
    "answer": "Tomaten brauchen Sonne.",
    "citations": [{"url": "https://source.example/1", "title": "Quelle", "snippet": "viel Sonne"}],
}


@dataclass
class Task:
    user: str
    query: str
    provider: str
    key: str
    polls: int = 0


@dataclass
class ResearchDouble(Serving):
    """Each poll of a task answers the next of `statuses`, and the last one for ever.

    `failing` has for each call the statuses that it answers first, instead of doing anything.
    """

    statuses: list[str] = field(default_factory=lambda: ["completed"])
    answer: Any = field(default_factory=lambda: dict(ANSWER))
    feeds: Any = field(default_factory=lambda: list(FEEDS))
    articles: Any = field(default_factory=lambda: list(ARTICLES))
    credits: Any = 500
    failing: dict[Call, list[int]] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    asked: dict[Call, list[dict[str, Any]]] = field(default_factory=lambda: defaultdict(list))
    raw: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        super().__init__()

    @property
    def settings(self) -> dict[str, Any]:
        """What makes a planner use both services."""
        return {"news_url": self.url, "research_url": self.url, "research_key": SecretStr(KEY), "deep_research": True}

    async def serve(self, request: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        self.raw += request.raw
        body = orjson.loads(request.body) if request.body else {}
        status, answer = self._carry_out(request.method, request.path, request.headers, body)
        if status != DROP:
            content = orjson.dumps(answer)
            writer.write(
                f"HTTP/1.1 {status} Answer\r\ncontent-length: {len(content)}\r\nconnection: close\r\n\r\n".encode()
                + content
            )
            await writer.drain()
        return False

    def _carry_out(self, method: str, path: str, headers: dict[str, str], body: dict[str, Any]) -> tuple[int, Any]:
        call = _CALLS.get((method, path), "poll")
        self.asked[call].append({"headers": headers, "body": body, "path": path})
        failures = self.failing.get(call, [])
        failure = failures.pop(0) if failures else None
        if failure:
            return failure, {"error": "as the test wants it"}
        if headers.get("x-service-key") != KEY:
            return 401, {"error": "unauthorized"}
        status, answer = self._do(call, headers, body, unquote(path.rpartition("/")[2]))
        return (status if failure is None else DROP), answer

    def _do(self, call: Call, headers: dict[str, str], body: dict[str, Any], task_id: str) -> tuple[int, Any]:
        match call:
            case "submit":
                return self._submit(headers["x-user-id"], headers["idempotency-key"], body)
            case "poll":
                return self._poll(headers["x-user-id"], task_id)
            case "discover":
                return 200, {"feeds": self.feeds}
            case "search":
                return 200, {"articles": self.articles}

    def _submit(self, user: str, key: str, body: dict[str, Any]) -> tuple[int, Any]:
        if not 1 <= len(body["query"].encode("utf-16-le")) // 2 <= 4000:
            return 400, {"error": "query"}
        known = next((i for i, task in self.tasks.items() if (task.user, task.key) == (user, key)), None)
        task_id = known or f"task/{len(self.tasks) + 1}"
        self.tasks.setdefault(task_id, Task(user, body["query"], body["provider"], key))
        return 202, {"taskId": task_id, "status": "queued", "providerId": body["provider"], "costCredits": self.credits}

    def _poll(self, user: str, task_id: str) -> tuple[int, Any]:
        task = self.tasks.get(task_id)
        if task is None or task.user != user:
            return 404, {"error": "no such task"}
        status = self.statuses[min(task.polls, len(self.statuses) - 1)]
        task.polls += 1
        reply = {"taskId": task_id, "status": status, "providerId": task.provider}
        return 200, reply | ({"result": {"answer": self.answer}} if status == "completed" else {})


_CALLS: dict[tuple[str, str], Call] = {
    ("POST", "/api/v1/internal/research/async"): "submit",
    ("POST", "/api/v1/news-research/discover"): "discover",
    ("POST", "/api/v1/news-research/search"): "search",
}
