"""Pooled connections that turn out stale, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Generation
from gateway.upstream.http import connections
from gateway.upstream.http.connections import HttpSession, upstream_session
from tests.gateway.upstream.http.dialects import OpenAI, run
from tests.raw_http import Exchange, raw_server

TIMEOUTS = TimeoutsConfig(connect_s=5.0, first_token_s=20.0, idle_s=20.0, total_s=60.0)


@pytest.fixture
async def session() -> AsyncIterator[HttpSession]:
    async with upstream_session() as session:
        yield session


def whole() -> bytes:
    """A good answer, after which the connection stays open."""
    openai = OpenAI()
    body = openai.head() + openai.text("hi") + openai.finish() + openai.marker()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n"
    return head % len(body) + body


async def good(exchange: Exchange) -> None:
    await exchange.send(whole())


@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize("prompt_bytes", [5, 3 << 20])
async def test_a_stale_connection_is_no_failure(
    how: str, prompt_bytes: int, session: HttpSession
) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.nth == 1:
            await good(exchange)
        elif how == "close":
            exchange.writer.close()
        else:
            exchange.reset()

    generation = Generation(
        request_id="r", model="moe", input="x" * prompt_bytes, max_output_tokens=16
    )
    async with raw_server(answer) as server:
        for _ in range(2):
            text = await run(OpenAI(), session, server.url, TIMEOUTS, [], generation)
            assert text == "hi"
    assert server.connections == 2
    assert len(server.requests) == 3
    assert server.bodies[1] == server.bodies[2]


async def test_all_pooled_connections_may_be_stale(session: HttpSession) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.nth == 1:
            await asyncio.sleep(0.05)  # all four at once, so that each has a connection
            await good(exchange)
        else:
            exchange.writer.close()

    async with raw_server(answer) as server:
        for _ in range(2):
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(run(OpenAI(), session, server.url, TIMEOUTS, []))
    assert server.connections == 8


async def test_a_fresh_connection_that_breaks_is_a_failure(session: HttpSession) -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.writer.close()

    async with raw_server(answer) as server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(OpenAI(), session, server.url, TIMEOUTS, [])
    assert caught.value.kind is FailureKind.SERVER_ERROR
    assert len(server.requests) == 1


async def test_it_is_tried_once_more_and_not_again(session: HttpSession) -> None:
    served = [0]

    async def answer(exchange: Exchange) -> None:
        served[0] += 1
        if served[0] == 1:
            await good(exchange)
        else:
            exchange.writer.close()

    async with raw_server(answer) as server:
        await run(OpenAI(), session, server.url, TIMEOUTS, [])
        with pytest.raises(UpstreamFailure) as caught:
            await run(OpenAI(), session, server.url, TIMEOUTS, [])
    assert caught.value.kind is FailureKind.SERVER_ERROR
    assert len(server.requests) == 3


async def test_an_answer_that_has_begun_is_not_asked_for_again(
    session: HttpSession,
) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.nth == 1:
            await good(exchange)
        else:
            await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
            exchange.writer.close()

    async with raw_server(answer) as server:
        await run(OpenAI(), session, server.url, TIMEOUTS, [])
        with pytest.raises(UpstreamFailure):
            await run(OpenAI(), session, server.url, TIMEOUTS, [])
    assert len(server.requests) == 2


async def test_a_server_that_took_its_time_before_it_broke_is_not_asked_again(
    session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALE_S", 0.05)

    async def answer(exchange: Exchange) -> None:
        if exchange.nth == 1:
            await good(exchange)
        else:
            await asyncio.sleep(0.2)  # the request may have killed it
            exchange.writer.close()

    async with raw_server(answer) as server:
        await run(OpenAI(), session, server.url, TIMEOUTS, [])
        with pytest.raises(UpstreamFailure) as caught:
            await run(OpenAI(), session, server.url, TIMEOUTS, [])
    assert caught.value.kind is FailureKind.SERVER_ERROR
    assert len(server.requests) == 2


async def test_a_stale_connection_to_a_server_that_is_gone_is_told_so(
    session: HttpSession,
) -> None:
    async with raw_server(good) as server:
        await run(OpenAI(), session, server.url, TIMEOUTS, [])
    with pytest.raises(UpstreamFailure) as caught:
        await run(OpenAI(), session, server.url, TIMEOUTS, [])
    assert caught.value.kind is FailureKind.SERVER_ERROR
    assert caught.value.message == "the connection broke before an answer"


async def test_no_connection_is_left_behind(session: HttpSession) -> None:
    async def answer(exchange: Exchange) -> None:
        if exchange.nth == 1:
            await good(exchange)
        else:
            exchange.writer.close()

    async with raw_server(answer) as server:
        for _ in range(4):
            await run(OpenAI(), session, server.url, TIMEOUTS, [])
        assert session.busy_connections == 0
