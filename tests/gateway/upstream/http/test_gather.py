"""Output that gathers under load: the wait for more ends with the answer, not with a timer.

The window of these tests is longer than the tests may run, so a wait that only a timer ends fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk
from gateway.upstream.http.connections import upstream_session
from tests.gateway.upstream.http.dialects import DIALECTS, Dialect, run, text_of
from tests.raw_http import HEAD, Exchange, raw_server

PATIENT = TimeoutsConfig(connect_s=5.0, first_token_s=20.0, idle_s=20.0, total_s=60.0)
TEST_S = 15.0
CHUNKED = HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked")

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: type(d).__name__)


class GathersForAnHour:
    """The pace of a gateway that is far too busy."""

    window_s = 3600.0
    tokens_per_chunk = 1


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with upstream_session() as session:
        yield session


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class InTwoParts:
    """Sends `rest` once the client has begun to gather: when it has read `first`."""

    def __init__(self, head: bytes, first: bytes, rest: bytes) -> None:
        self._head, self._first, self._rest = head, first, rest
        self.first_was_read = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.send(self._head + self._first)
        await self.first_was_read.wait()
        await exchange.send(self._rest)
        if self._head == HEAD or not self._rest.endswith(b"0\r\n\r\n"):
            exchange.writer.close()


async def gathered(
    dialect: Dialect, session: aiohttp.ClientSession, answer: InTwoParts
) -> list[Chunk]:
    got: list[Chunk] = []

    async def let_go() -> None:
        while not text_of(got):
            await asyncio.sleep(0)
        for _ in range(20):  # the client's turn: it waits for the window now
            await asyncio.sleep(0)
        answer.first_was_read.set()

    async with raw_server(answer) as server, asyncio.timeout(TEST_S), asyncio.TaskGroup() as tasks:
        tasks.create_task(let_go())
        await run(dialect, session, server.url, PATIENT, got, pace=GathersForAnHour())
    return got


@each_dialect
@pytest.mark.parametrize("framing", ["chunked", "until closed"])
async def test_the_wait_ends_with_the_body(
    dialect: Dialect, framing: str, session: aiohttp.ClientSession
) -> None:
    first = dialect.head() + dialect.text("one ")
    rest = [dialect.text("two "), dialect.text("three"), dialect.finish(), dialect.marker()]
    if framing == "chunked":
        answer = InTwoParts(CHUNKED, chunked(first), b"".join(map(chunked, rest)) + b"0\r\n\r\n")
    else:
        answer = InTwoParts(HEAD, first, b"".join(rest))
    got = await gathered(dialect, session, answer)
    assert text_of(got) == "one two three"
    assert len([chunk for chunk in got if text_of([chunk])]) == 2, "the rest came as one piece"


@each_dialect
async def test_the_wait_ends_when_the_connection_breaks(
    dialect: Dialect, session: aiohttp.ClientSession
) -> None:
    first = chunked(dialect.head() + dialect.text("one"))
    answer = InTwoParts(CHUNKED, first, chunked(dialect.text(" two")))
    with pytest.raises(ExceptionGroup) as caught:
        await gathered(dialect, session, answer)
    (failure,) = caught.value.exceptions
    assert isinstance(failure, UpstreamFailure)
    assert failure.kind is FailureKind.SERVER_ERROR
