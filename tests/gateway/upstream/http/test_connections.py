"""Pooled connections that turn out stale, on real sockets."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme
import uvloop

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


async def test_the_end_of_a_body_is_awaited_by_nobody(session: HttpSession) -> None:
    """A server that ends its body late has its connection used again, and holds up no answer."""
    answered = asyncio.Event()
    openai = OpenAI()
    body = openai.head() + openai.text("hi") + openai.finish() + openai.marker()
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n"

    async def answer(exchange: Exchange) -> None:
        await exchange.send(head + b"\r\n%x\r\n%b\r\n" % (len(body), body))
        await answered.wait()
        await exchange.send(b"4\r\n: x\n\r\n0\r\n\r\n")

    async with raw_server(answer) as server:
        assert await run(OpenAI(), session, server.url, TIMEOUTS, []) == "hi"
        answered.set()
        while session.busy_connections:
            await asyncio.sleep(0)
        assert await run(OpenAI(), session, server.url, TIMEOUTS, []) == "hi"
        assert server.connections == 1


async def test_a_body_that_does_not_end_closes_its_connection(session: HttpSession) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(whole().replace(b"Content-Length: ", b"Content-Length: 9"))
        await exchange.reader.read()

    async with raw_server(answer) as server:
        assert await run(OpenAI(), session, server.url, TIMEOUTS, []) == "hi"
        while session.open_connections:
            await asyncio.sleep(0.01)


async def test_a_connection_with_bytes_that_nobody_asked_for_is_not_used_again(
    session: HttpSession,
) -> None:
    async def answer(exchange: Exchange) -> None:
        await exchange.send(whole())
        await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad")

    async with raw_server(answer) as server:
        for _ in range(3):
            assert await run(OpenAI(), session, server.url, TIMEOUTS, []) == "hi"
            while session.open_connections:
                await asyncio.sleep(0.01)
        assert server.connections == 3


async def test_a_refusal_in_the_middle_of_a_large_body_is_heard(session: HttpSession) -> None:
    """As of a server that bounds what it takes."""
    refused = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 2\r\n\r\n{}")
        await refused.wait()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    generation = Generation(
        request_id="r", model="moe", input="x" * (64 << 20), max_output_tokens=16
    )
    async with server:
        with pytest.raises(UpstreamFailure) as caught:
            await run(OpenAI(), session, url, TIMEOUTS, [], generation)
        assert "413" in str(caught.value)
        refused.set()
        while session.open_connections:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("is_known", [True, False])
async def test_the_certificate_of_a_server_is_checked(
    is_known: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    trusted = authority if is_known else trustme.CA()
    trusted.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(re.findall(rb"Content-Length: (\d+)", head)[0]))
        writer.write(whole())
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
    async with server, HttpSession() as session:
        if is_known:
            assert await run(OpenAI(), session, url, TIMEOUTS, []) == "hi"
            return
        with pytest.raises(UpstreamFailure, match=r"no connection: .*certificate") as caught:
            await run(OpenAI(), session, url, TIMEOUTS, [])
        assert caught.value.kind is FailureKind.CONNECT


async def test_an_idle_connection_is_closed(
    session: HttpSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "UPSTREAM_KEEPALIVE_S", 0.05)
    async with raw_server(good) as server:
        await run(OpenAI(), session, server.url, TIMEOUTS, [])
        assert session.open_connections == 1
        while session.open_connections:
            await asyncio.sleep(0.01)
        assert await run(OpenAI(), session, server.url, TIMEOUTS, []) == "hi"
        assert server.connections == 2


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:99999", "http://a..b:1", f"http://{'a' * 70}:1", "http://[::1:1"]
)
async def test_an_address_that_is_none_is_no_connection(url: str, session: HttpSession) -> None:
    """It is a typing error in a configuration, and must not end the tasks that probe servers."""
    with pytest.raises(UpstreamFailure, match="no connection: ") as caught:
        await run(OpenAI(), session, url, TIMEOUTS, [])
    assert caught.value.kind is FailureKind.CONNECT


async def test_an_id_with_a_line_break_is_the_fault_of_the_request(session: HttpSession) -> None:
    generation = Generation(request_id="a\r\nX: y", model="moe", input="x", max_output_tokens=16)
    async with raw_server(good) as server:
        with pytest.raises(UpstreamFailure, match="line break") as caught:
            await run(OpenAI(), session, server.url, TIMEOUTS, [], generation)
    assert caught.value.kind is FailureKind.BAD_REQUEST
    assert not server.requests


@pytest.mark.parametrize(
    "scenario",
    [
        test_all_pooled_connections_may_be_stale,
        test_a_fresh_connection_that_breaks_is_a_failure,
        test_an_answer_that_has_begun_is_not_asked_for_again,
        test_no_connection_is_left_behind,
        test_the_end_of_a_body_is_awaited_by_nobody,
        test_a_body_that_does_not_end_closes_its_connection,
        test_a_connection_with_bytes_that_nobody_asked_for_is_not_used_again,
        test_a_refusal_in_the_middle_of_a_large_body_is_heard,
    ],
)
def test_the_loop_of_the_gateway(scenario: Callable[[HttpSession], Awaitable[None]]) -> None:
    """The gateway runs on uvloop, whose transports differ from asyncio's."""

    async def on_uvloop() -> None:
        async with upstream_session() as session:
            await scenario(session)

    uvloop.run(on_uvloop())
