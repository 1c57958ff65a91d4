"""Answers of HTTP doors: JSON, a whole generation, or a stream of events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

import msgspec
from aiohttp import web

from gateway.config.money import usd_text
from gateway.delivery.unread import UnreadOutput, write_within
from gateway.domain.choice_assembler import ChoiceAssembler
from gateway.domain.failures import UpstreamFailure
from gateway.domain.generation import ChoiceDelta, Chunk
from gateway.domain.outcomes import Finished, PartialOutput, RequestRefused
from gateway.domain.pooling import Scores, Vectors
from gateway.doors.http.errors import HttpError, from_outcome, unread
from gateway.doors.http.exchange import Exchange
from gateway.doors.http.sse import EventStream
from gateway.pipeline.call import GenerateCall

_ENDS = (RequestRefused, PartialOutput, UpstreamFailure)
encode = msgspec.json.Encoder().encode
"""Encodes JSON on one line."""


class Events(Protocol):
    """The events of one stream, in the words of a dialect. Each method returns whole events, or
    nothing."""

    def opening(self) -> bytes:
        """The first events, before any output."""

    def chunk(self, chunk: Chunk) -> bytes:
        """New output."""

    def finished(self, finished: Finished) -> bytes:
        """The end of an answer."""

    def failed(self, error: HttpError) -> bytes:
        """The end of a stream that broke off after its status line."""


@asynccontextmanager
async def http_errors() -> AsyncIterator[None]:
    """Turns what the pipeline raises into HttpError."""
    try:
        yield
    except _ENDS as error:
        raise from_outcome(error) from error


def json_answer(exchange: Exchange, value: object, status: int = 200) -> web.Response:
    """A JSON answer. `value`: anything that msgspec encodes."""
    return web.Response(
        status=status,
        body=encode(value),
        content_type="application/json",
        headers=exchange.headers_of_good_answer(),
    )


async def run_whole(exchange: Exchange, call: GenerateCall) -> tuple[list[ChoiceDelta], Finished]:
    """Runs a generation to its end. Returns its choices and the summary, whose cost goes into the
    answer's headers. Raises HttpError."""
    choices = ChoiceAssembler()
    result: Finished | None = None
    async with http_errors(), aclosing(exchange.services.pipeline.run(call)) as outputs:
        async for output in outputs:
            if isinstance(output, Finished):
                result = output
            else:
                for delta in output.deltas:
                    choices.add(delta)
    assert result is not None
    _tell_cost(exchange, result)
    return choices.choices(), result


async def run_pooled(exchange: Exchange, call: GenerateCall) -> tuple[Vectors | Scores, Finished]:
    """Runs a request for vectors or scores, as `run_whole` does. Raises HttpError."""
    pooled: Vectors | Scores | None = None
    result: Finished | None = None
    async with http_errors(), aclosing(exchange.services.pipeline.run(call)) as outputs:
        async for output in outputs:
            if isinstance(output, Finished):
                result = output
            elif output.pooled is not None:
                pooled = output.pooled
    assert pooled is not None
    assert result is not None
    _tell_cost(exchange, result)
    return pooled, result


def _tell_cost(exchange: Exchange, result: Finished) -> None:
    exchange.finished = result
    charged = result.charged_nano_usd
    if charged is not None:
        exchange.headers["x-moegate-cost-usd"] = usd_text(charged)


async def run_stream(
    exchange: Exchange, call: GenerateCall, events: Events, *, ping: bytes
) -> web.StreamResponse:
    """Runs a generation and streams it. `ping`: what is sent in silences.

    Raises HttpError for a failure before the status line. A later one is told within the stream.
    """
    services = exchange.services
    assert exchange.request is not None, "an item of a batch does not stream"
    stream = EventStream(
        exchange.request,
        exchange.headers_of_good_answer,
        opening=events.opening,
        ping=ping,
        clock=services.clock,
    )
    blocked_s = services.active.config.server.blocked_write_s
    try:
        with services.silences.watched(stream):
            async with services.deliveries.open(
                services.pipeline.run(call),
                tenant=call.caller.tenant,
                deadline_s=services.pipeline.deadline_s(call),
            ) as delivery:
                async for output in delivery:
                    if isinstance(output, Finished):
                        data = events.finished(output)
                    else:
                        data = events.chunk(output)
                    if data:
                        await delivery.write(stream.write(data))
        await write_within(stream.end(), blocked_s)
    except _ENDS as error:
        failed = exchange.failed = from_outcome(error)
        if not stream.begun:
            raise failed from error
        await _tell(stream, events.failed(failed), blocked_s)
    except UnreadOutput as error:
        exchange.failed = unread(error.limit_s)
        stream.abort()
    return stream.response


async def _tell(stream: EventStream, last: bytes, limit_s: float) -> None:
    try:
        await write_within(stream.write(last), limit_s)
        await write_within(stream.end(), limit_s)
    except UnreadOutput:
        stream.abort()
