"""Shallow research: feeds that fit a query, and articles of them. Asked and answered at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from projector.planner.research.http import Service

DISCOVER_S, SEARCH_S = 15.0, 30.0
FEEDS, ARTICLES = 5, 8
LANGUAGE = "de"


@dataclass(frozen=True, slots=True)
class Article:
    """`excerpt` and `published_at` are '' where there is none."""

    title: str
    url: str
    excerpt: str = ""
    published_at: str = ""


@dataclass(frozen=True, slots=True)
class News:
    feeds: int
    articles: tuple[Article, ...]


class ShallowResearch:
    def __init__(self, service: Service) -> None:
        self._service = service

    async def search(self, query: str, user_id: str) -> News | None:
        """None when nothing was found. Raises ResearchUnavailableError or ResearchRefusedError."""
        found = await self._service.post(
            "/api/v1/news-research/discover",
            {"query": query, "language": LANGUAGE, "limit": FEEDS},
            user_id=user_id,
            timeout_s=DISCOVER_S,
        )
        feeds = [url for feed in _objects(found.get("feeds")) if (url := _text(feed, "url"))]
        if not feeds:
            return None
        found = await self._service.post(
            "/api/v1/news-research/search",
            {"feeds": feeds, "query": query, "limit": ARTICLES},
            user_id=user_id,
            timeout_s=SEARCH_S,
        )
        articles = [
            Article(_text(one, "title"), url, _text(one, "excerpt"), _text(one, "publishedAt"))
            for one in _objects(found.get("articles"))
            if (url := _text(one, "url"))
        ]
        return News(len(feeds), tuple(articles[:ARTICLES])) if articles else None


def _objects(value: object) -> list[dict[str, Any]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _text(one: dict[str, Any], name: str) -> str:
    value = one.get(name)
    return value if isinstance(value, str) else ""
