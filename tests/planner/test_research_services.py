from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from projector.errors import ResearchRefusedError, ResearchUnavailableError
from projector.llm.transport import HTTPTransport
from projector.planner.guardrails import MAX_INPUT_UNITS
from projector.planner.inputs.sizes import units
from projector.planner.mission import mission_of
from projector.planner.research.deep import DeepResearch, Polled, Submitted
from projector.planner.research.http import MAX_BODY_BYTES, Service, http_client
from projector.planner.research.seek import query_of
from projector.planner.research.shallow import Article, News
from projector.planner.research.told import answer_input, news_input
from tests.llm.double import Double, Reply
from tests.planner.research_double import KEY, ResearchDouble

SLOW_S = 0.2


@asynccontextmanager
async def _client() -> AsyncIterator[HTTPTransport]:
    client = http_client()
    try:
        yield client
    finally:
        await client.close()


async def post(reply: Reply, *, base: str = "") -> dict:
    async with Double(reply) as double, _client() as client:
        service = Service(client, base or double.url + "/", KEY)
        return await service.post("/x", {"query": "q"}, user_id="Ünal", timeout_s=SLOW_S)


async def test_an_object_comes_back():
    assert await post(Reply(body=b'{"a": 1}')) == {"a": 1}


@pytest.mark.parametrize(
    "reply",
    [
        Reply(body=b"{}", pause_s=60),
        Reply(body=b'{"a": 1}', drip_s=0.1),
        Reply(body=b" " * (MAX_BODY_BYTES + 1)),
        Reply(body=b"no json"),
        Reply(body=b"[]"),
        *(Reply(status=status) for status in (401, 403, 408, 409, 429, 500, 503)),
    ],
    ids=lambda reply: f"{reply.status}-{len(reply.body)}",
)
async def test_what_may_be_better_later_is_told_from_what_is_refused(reply):
    with pytest.raises(ResearchUnavailableError):
        await post(reply)


@pytest.mark.parametrize("status", [302, 400, 402, 404, 410, 422])
async def test_what_stays_refused_is_not_asked_again_and_its_words_are_not_repeated(status):
    with pytest.raises(ResearchRefusedError) as refused:
        await post(Reply(status=status, body=b"you asked: secret", headers={"location": "http://127.0.0.1:1/"}))
    assert refused.value.message == f"answered {status}"


async def test_a_user_whose_id_no_header_can_carry_is_told_as_unavailable():
    async with Double(Reply(body=b"{}")) as double, _client() as client:
        with pytest.raises(ResearchUnavailableError):
            await Service(client, double.url, KEY).post("/x", {}, user_id="a\nb", timeout_s=SLOW_S)
    assert double.requests == []


async def test_nobody_there_is_unavailable():
    with pytest.raises(ResearchUnavailableError, match="unreachable"):
        await post(Reply(), base="http://127.0.0.1:1")


async def test_a_task_belongs_to_its_user_and_submitting_it_twice_makes_one():
    async with ResearchDouble(statuses=["running", "completed"]) as double, _client() as client:
        deep = DeepResearch(Service(client, double.url, KEY))
        first, second = [await deep.submit("q", "openai-deep-research", user_id="Ünal", key="k") for _ in range(2)]
        assert (first, second, len(double.tasks)) == (Submitted("task/1", 500.0), first, 1)
        with pytest.raises(ResearchRefusedError):
            await deep.poll(first.task_id, user_id="u2")
        assert await deep.poll(first.task_id, user_id="Ünal") == Polled(None)
        assert await deep.poll(first.task_id, user_id="Ünal") == Polled("completed", double.answer)


@pytest.mark.parametrize(
    ("told", "price"),
    [(0, 0.0), (2.5, 2.5), (None, None), (True, None), ("500", None), (-1, None), (1e9, None), (10**18, None)],
)
async def test_a_price_that_is_none_is_not_taken_for_one(told, price):
    async with ResearchDouble(credits=told) as double, _client() as client:
        submitted = await DeepResearch(Service(client, double.url, KEY)).submit("q", "p", user_id="u", key="k")
    assert submitted == Submitted("task/1", price)


def test_a_query_is_no_longer_than_the_service_takes():
    assert units(query_of(mission_of({"objective": "🌱" * 3000}))) == 4000
    assert query_of(mission_of({"objective": "  "})) == ""


def test_no_ciphertext_of_an_answer_is_kept():
    secret = "enc:1:aXY=.Y3Q="
    told = answer_input(f"q {secret}", {"answer": f"a {secret}", "citations": [{"url": "https://x", "title": secret}]})
    assert "enc:1:" not in f"{told} {news_input(secret, News(1, (Article(secret, 'https://x', secret, secret),)))}"


def test_what_is_told_of_research_is_bounded_and_stays_on_its_lines():
    long = "x\n" * 50_000
    citation = {"title": long, "url": "https://a.example/" + "y" * 5000, "snippet": long}
    answer = answer_input(long, {"answer": long, "citations": [citation] * 1000})
    news = news_input(long, News(5, (Article(long, "https://a.example/ b", long, long),) * 8))
    assert max(units(answer.content), units(news.content)) < MAX_INPUT_UNITS
    assert news.content.count("\n## ") == 8
    assert "y" * 1000 not in answer.content  # half an address leads somewhere else
    assert "](…) — x x" in answer.content
    assert answer.content.endswith("\n… (950 weitere)")
    assert "\nURL: " not in news.content
    assert "weitere" not in answer_input("q", {"answer": "a", "citations": [citation] * 50}).content
    assert len(answer.title) == len('Deep Research: ""') + 60
