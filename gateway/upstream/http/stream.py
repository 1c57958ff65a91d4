"""One generation over HTTP and server-sent events, whatever the dialect: open, read, decode, end.

A stream that is left early, by a failure, a cancellation or a deadline, closes its connection at
once: that is what makes the engine abort.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Protocol

import aiohttp
import msgspec

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.domain.generation import Chunk
from gateway.upstream.http import call as http_call
from gateway.upstream.http.call import CallBounds, HttpRequest
from gateway.upstream.http.loop_load import Pace
from gateway.upstream.http.sse import EventTooLarge, SseReader

ERROR_BODY_S = 2.0
"""Longest wait for the body of an error, whose status is known already."""
MAX_ERROR_BODY_BYTES = 64 * 1024


class Decoder(Protocol):
    """Payloads of one stream into chunks."""

    @property
    def ended(self) -> bool:
        """Whether the end or a failure has come, so that nothing that follows matters."""

    @property
    def started(self) -> bool:
        """Whether the first token has come."""

    @property
    def finished(self) -> bool:
        """Whether the answer is complete; its usage may still be missing."""

    def feed(self, payloads: Iterable[bytes]) -> Chunk | None:
        """New output of these payloads; None: there is none."""

    def end(self) -> Chunk:
        """The last chunk, with the usage. Raises UpstreamFailure."""


class Errors(Protocol):
    """How a dialect reports errors."""

    def http_failure(
        self, status: int, body: bytes, retry_after: str | None, now_unix_s: float
    ) -> UpstreamFailure:
        """Failure of a status other than 200. `body` may be cut short."""

    def failure_in(self, body: bytes) -> UpstreamFailure | None:
        """Failure in a JSON body under status 200; None: it holds no error."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is answered by a stream."""

    request: HttpRequest
    timeouts: TimeoutsConfig
    pace: Pace
    errors: Errors


async def stream_chunks(
    call: Call, decoder: Decoder, *, deadline_s: float
) -> AsyncGenerator[Chunk, None]:
    """Chunks as they come, one for what a network read holds; the last carries the usage."""
    now = asyncio.get_running_loop().time
    timeouts, pace = call.timeouts, call.pace
    reader = SseReader()
    bounds = CallBounds(
        now(),
        first_s=timeouts.first_token_s,
        idle_s=timeouts.idle_s,
        end_s=min(now() + timeouts.total_s, deadline_s),
    )
    if bounds.next_s <= now():
        raise bounds.failure()
    response = await open_good(call.request, bounds, call.errors)
    try:
        await _check_event_stream(response, bounds, call.errors)
        while not decoder.ended:
            if decoder.started and (window_s := pace.window_s) > 0:
                # Under load: all output of the window is read, decoded and sent at once.
                await asyncio.sleep(window_s)
            try:
                bounds.check_end(now())
                data = await http_call.read_some(response, bounds)
            except UpstreamFailure:
                # Only the usage is missing: a complete answer is not thrown away for it.
                if decoder.finished:
                    break
                raise
            if not data:
                break
            payloads = _payloads(reader, data)
            chunk = decoder.feed(payloads)
            if chunk is not None:
                yield chunk
            # Comments are not output: proxies send them for a server that hangs. The clock is
            # read now, because the time that the consumer took is not silence of the server.
            if payloads and decoder.started:
                bounds.record_output(now())
        yield decoder.end()
        await http_call.await_end(response)
    finally:
        bounds.close()
        # No effect after the body's end: the connection is back in the pool by then.
        response.close()


async def open_good(
    request: HttpRequest, bounds: CallBounds, errors: Errors
) -> aiohttp.ClientResponse:
    """A response with status 200, for the caller to close."""
    response = await http_call.open_response(request, bounds)
    if response.status == 200:
        return response
    now_s = asyncio.get_running_loop().time()
    soon = CallBounds(now_s, first_s=ERROR_BODY_S, idle_s=ERROR_BODY_S, end_s=bounds.next_s)
    try:
        text = await http_call.read_at_most(response, MAX_ERROR_BODY_BYTES, soon)
    except UpstreamFailure:
        # The status alone is enough.
        text = b""
    finally:
        soon.close()
        response.close()
    retry_after = response.headers.get("Retry-After")
    raise errors.http_failure(response.status, text, retry_after, time.time())


async def _check_event_stream(
    response: aiohttp.ClientResponse, bounds: CallBounds, errors: Errors
) -> None:
    """Raises UpstreamFailure for another content type: the error in the body, if there is one."""
    if response.content_type == "text/event-stream":
        return
    text = await http_call.read_at_most(response, MAX_ERROR_BODY_BYTES, bounds)
    failure = errors.failure_in(text)
    if failure is not None:
        raise failure
    message = f"the answer is {one_line(response.content_type, 100)}, not an event stream"
    raise UpstreamFailure(FailureKind.PROTOCOL, message)


def _payloads(reader: SseReader, data: bytes) -> list[bytes]:
    try:
        return reader.feed(data)
    except EventTooLarge as error:
        raise UpstreamFailure(FailureKind.PROTOCOL, f"the stream has {error}") from error
