"""Output that gathers under load: the wait for more ends with the answer, not with a timer.

The window of these tests is longer than the tests may run, so a wait that only a timer ends fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk
from gateway.upstream.http.connections import HttpSession, upstream_session
from gateway.upstream.http.response import GATHER_BYTES
from tests.gateway.upstream.http.dialects import DIALECTS, Dialect, run, text_of
from tests.raw_http import HEAD, Answer, Exchange, raw_server

PATIENT = TimeoutsConfig(connect_s=5.0, first_token_s=20.0, idle_s=20.0, total_s=60.0)
TEST_S = 15.0
CHUNKED = HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked")

each_dialect = pytest.mark.parametrize("dialect", DIALECTS, ids=lambda d: type(d).__name__)


class GathersForAnHour:
    """The pace of a gateway that is far too busy."""

    window_s = 3600.0
    tokens_per_chunk = 1


@pytest.fixture
async def session() -> AsyncIterator[HttpSession]:
    async with upstream_session() as session:
        yield session


def chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class InTwoParts:
    """Sends `rest` once the client has begun to gather: when it has read `first`."""

    def __init__(self, head: bytes, first: bytes, rest: bytes, *, closes: bool = True) -> None:
        self._head, self._first, self._rest, self._closes = head, first, rest, closes
        self.first_was_read = asyncio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await exchange.send(self._head + self._first)
        await self.first_was_read.wait()
        await exchange.send(self._rest)
        if self._closes:
            exchange.writer.close()


async def gathered(
    dialect: Dialect,
    session: HttpSession,
    in_two: InTwoParts,
    answer: Answer | None = None,
    got: list[Chunk] | None = None,
) -> list[Chunk]:
    """The chunks of an answer in two parts. `answer`: calls `in_two`, and goes on after it."""
    got = [] if got is None else got

    async def let_go() -> None:
        while not text_of(got):
            await asyncio.sleep(0)
        for _ in range(20):  # the client's turn: it waits for the window now
            await asyncio.sleep(0)
        in_two.first_was_read.set()

    async with (
        raw_server(answer or in_two) as server,
        asyncio.timeout(TEST_S),
        asyncio.TaskGroup() as tasks,
    ):
        tasks.create_task(let_go())
        await run(dialect, session, server.url, PATIENT, got, pace=GathersForAnHour())
    return got


@each_dialect
@pytest.mark.parametrize("framing", ["chunked", "until closed"])
async def test_the_wait_ends_with_the_body(
    dialect: Dialect, framing: str, session: HttpSession
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
async def test_the_wait_ends_with_the_last_event_of_a_body_that_does_not_end(
    dialect: Dialect, session: HttpSession
) -> None:
    first = dialect.head() + dialect.text("one ")
    rest = dialect.text("two") + dialect.finish() + dialect.marker()

    async def answer(exchange: Exchange) -> None:
        await in_two(exchange)
        await exchange.reader.read()

    in_two = InTwoParts(CHUNKED, chunked(first), chunked(rest), closes=False)
    got = await gathered(dialect, session, in_two, answer)
    assert text_of(got) == "one two"


@each_dialect
async def test_the_wait_ends_when_much_has_come(dialect: Dialect, session: HttpSession) -> None:
    """A fast upstream is held up by no window, and nothing more than that is kept in memory."""
    first = dialect.head() + dialect.text("one ")
    much = b": " + b"x" * GATHER_BYTES + b"\n\n" + dialect.text("two")

    async def answer(exchange: Exchange) -> None:
        await in_two(exchange)
        while text_of(got) != "one two":
            await asyncio.sleep(0)
        rest = dialect.finish() + dialect.marker()
        await exchange.send(chunked(rest) + b"0\r\n\r\n")

    got: list[Chunk] = []
    in_two = InTwoParts(CHUNKED, chunked(first), chunked(much), closes=False)
    await gathered(dialect, session, in_two, answer, got)
    assert text_of(got) == "one two"


@each_dialect
async def test_the_wait_ends_when_the_connection_breaks(
    dialect: Dialect, session: HttpSession
) -> None:
    first = chunked(dialect.head() + dialect.text("one"))
    answer = InTwoParts(CHUNKED, first, chunked(dialect.text(" two")))
    got: list[Chunk] = []
    with pytest.raises(ExceptionGroup) as caught:
        await gathered(dialect, session, answer, got=got)
    assert text_of(got) == "one two", "what came before the break is not lost"
    (failure,) = caught.value.exceptions
    assert isinstance(failure, UpstreamFailure)
    assert failure.kind is FailureKind.SERVER_ERROR
