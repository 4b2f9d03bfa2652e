"""What research found, as an input of a run: markdown, and our own word on how to use it."""

from __future__ import annotations

from typing import Any

from projector.planner.ciphertext import scrub
from projector.planner.inputs.resolve import Gap, ResolvedInput
from projector.planner.inputs.sizes import CUT_MARK, cut, first
from projector.planner.research.shallow import News
from projector.planner.storable import storable

MODULE, TABLE, ID = "news-research", "web", "__web-research__"
MAX_TITLE = 60
# UTF-16 units. All of it together stays below what a run's inputs may have.
MAX_ANSWER = 40_000
MAX_SOURCES = 50
MAX_LINE, MAX_URL = 500, 800

NOTE = "Nenne und verwende als Quellen nur die in dieser Recherche aufgeführten URLs; erfinde keine."

UNAVAILABLE = Gap(MODULE, "Web-Recherche", "unavailable", ID)
"""Research that was asked for and could not be done."""


def news_input(query: str, news: News) -> ResolvedInput:
    lines = [f'# Web-Research: "{_line(query)}"', "", f"{news.feeds} Feeds, {len(news.articles)} Artikel", ""]
    for article in news.articles:
        lines.append(f"## {_line(article.title)}")
        if article.excerpt:
            lines.append(f"> {_line(article.excerpt)}")
        if url := _url(article.url):
            lines.append(f"URL: {url}")
        if article.published_at:
            lines.append(f"Datum: {_line(article.published_at)}")
        lines.append("")
    return _input(f'Web-Research: "{first(query, MAX_TITLE)}"', lines)


def answer_input(query: str, answer: dict[str, Any]) -> ResolvedInput:
    """`answer` as a deep research service gives it; what is missing in it but the text is no error."""
    lines = [f'# Deep-Research: "{_line(query)}"', "", cut(answer["answer"].strip(), MAX_ANSWER), ""]
    citations = answer.get("citations")
    sources = citations if isinstance(citations, list) else []
    named = [_source(one) for one in sources[:MAX_SOURCES] if isinstance(one, dict)]
    if named:
        more = len(sources[MAX_SOURCES:])
        lines += ["## Quellen", *named, *([f"{CUT_MARK} ({more} weitere)"] if more else [])]
    return _input(f'Deep Research: "{first(query, MAX_TITLE)}"', lines)


def _source(citation: dict[str, Any]) -> str:
    title, url, snippet = _line(citation.get("title")), _url(citation.get("url")), _line(citation.get("snippet"))
    named = f"- [{title or url}]({url})"
    return f"{named} — {snippet}" if snippet else named


def _input(title: str, lines: list[str]) -> ResolvedInput:
    content: str = scrub(storable("\n".join(lines).strip()))
    return ResolvedInput(ID, MODULE, TABLE, scrub(storable(title)), content, NOTE)


def _line(value: object) -> str:
    return cut(" ".join(value.split()), MAX_LINE) if isinstance(value, str) else ""


def _url(value: object) -> str:
    found = value.strip() if isinstance(value, str) else ""
    if any(c.isspace() for c in found):
        return ""
    # One that is cut leads somewhere else.
    return found if len(found) <= MAX_URL else CUT_MARK
