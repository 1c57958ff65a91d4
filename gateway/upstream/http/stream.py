"""One generation over HTTP and server-sent events, whatever the dialect: open, read, decode, end.

A stream that is left early, by a failure, a cancellation or a deadline, closes its connection at
once: that is what makes the engine abort.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable
from typing import Any, Protocol

import msgspec
from msgspec import structs

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure, one_line
from gateway.domain.generation import Chunk
from gateway.domain.slices import Steps, in_slices
from gateway.upstream.http import call as http_call
from gateway.upstream.http import failures
from gateway.upstream.http.call import CallBounds, HttpRequest
from gateway.upstream.http.loop_load import Pace
from gateway.upstream.http.response import Response
from gateway.upstream.http.sse import EventTooLarge, SseReader
from gateway.upstream.lenient import NotJson, read_json

ERROR_BODY_S = 2.0
"""Longest wait for the body of an error, whose status is known already."""
MAX_ERROR_BODY_BYTES = 64 * 1024
MAX_WHOLE_BYTES = 1_000_000
"""Longest answer that is read as a whole although a stream was asked for."""
_EVENT_SIGNS = (b"data:", b"event:", b":", b"id:", b"retry:")
_SIGN_BYTES = 6
"""Bytes that show whether a body is a stream of events."""
PART_BYTES = 8 * 1024
"""Bytes that are decoded at once. More have come only if the server sends faster than any model."""
LARGE_EVENT_BYTES = 64 * 1024
MAX_EVENT_ELEMENTS = 20_000
"""Most objects and lists in an event that is larger than `LARGE_EVENT_BYTES`."""
PINGS_IDLE = 4.0
"""Default of `pings_idle_s`, as a multiple of `idle_s`."""


class Decoder(Protocol):
    """Payloads of one stream into chunks."""

    last_event: bytes
    """Bytes that only the last event of a stream has."""

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


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request that is answered by a stream. `body`: makes the body of `request`."""

    request: HttpRequest
    body: Steps[bytes]
    timeouts: TimeoutsConfig
    pace: Pace
    max_bytes: int
    """Longest answer, in bytes of its stream: see `answer_size.py`."""


async def stream_chunks(
    call: Call, decoder: Decoder, *, deadline_s: float
) -> AsyncGenerator[Chunk, None]:
    """Chunks as they come, one for what a network read holds; the last carries the usage."""
    now = asyncio.get_running_loop().time
    timeouts, pace = call.timeouts, call.pace
    reader = SseReader()
    bounds = stream_bounds(timeouts, now(), deadline_s)
    if bounds.next_s <= now():
        raise bounds.failure()
    request = structs.replace(call.request, body=await in_slices(call.body))
    response = await open_good(request, bounds)
    received = 0
    try:
        first = await _first_bytes(response, bounds, call.max_bytes)
        while not decoder.ended:
            if decoder.started and not decoder.finished and (window_s := pace.window_s) > 0:
                # Under load: all output of the window is read, decoded and sent at once.
                await response.gather(window_s, decoder.last_event)
            try:
                bounds.check_end(now())
                data, first = first or await http_call.read_some(response, bounds), b""
            except UpstreamFailure:
                # Only the usage is missing: a complete answer is not thrown away for it.
                if decoder.finished:
                    break
                raise
            if not data:
                # What is pending may still be a whole event.
                chunk = decoder.feed(_last_payloads(reader))
                if chunk is not None:
                    yield chunk
                break
            received += len(data)
            if received > call.max_bytes:
                if decoder.finished:
                    break
                raise too_long(call.max_bytes)
            for part in _parts(data):
                chunk = decoder.feed(_payloads(reader, part))
                # The clock is read after the consumer's turn, which is not the server's silence.
                if chunk is not None:
                    yield chunk
                    bounds.record_output(now())
                elif not decoder.finished:
                    bounds.record_life(now())
                if part is not data:
                    await asyncio.sleep(0)  # a flood of small events holds nobody else
                    if decoder.ended:
                        break
        last = decoder.end()
        if decoder.ended:
            response.finish()
        yield last
    finally:
        bounds.close()
        response.close()


def stream_bounds(timeouts: TimeoutsConfig, now_s: float, deadline_s: float) -> CallBounds:
    """Time limits of a generation that starts now."""
    pings_idle_s = timeouts.pings_idle_s
    return CallBounds(
        now_s,
        first_s=timeouts.first_token_s,
        idle_s=timeouts.idle_s,
        end_s=min(now_s + timeouts.total_s, deadline_s),
        pings_first_s=timeouts.pings_first_s,
        pings_idle_s=PINGS_IDLE * timeouts.idle_s if pings_idle_s is None else pings_idle_s,
    )


def too_long(max_bytes: int) -> UpstreamFailure:
    """The failure of an answer that is longer than its request can explain."""
    message = f"more than {max_bytes} bytes, the longest answer to this request: it was cut"
    return UpstreamFailure(FailureKind.PROTOCOL, message)


async def open_good(request: HttpRequest, bounds: CallBounds) -> Response:
    """A response with status 200 and a plain body, for the caller to close."""
    response = await http_call.open_response(request, bounds)
    encoding = http_call.foreign_encoding(response)
    if response.status == 200:
        if not encoding:
            return response
        response.close()
        message = f"the answer is encoded as {encoding}, which was not asked for"
        raise UpstreamFailure(FailureKind.PROTOCOL, message)
    if encoding:  # the status alone is enough
        response.close()
        raise failures.http_failure(response.status, b"", response.headers, time.time())
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
    raise failures.http_failure(response.status, text, response.headers, time.time())


async def _first_bytes(response: Response, bounds: CallBounds, max_bytes: int) -> bytes:
    """The beginning of a stream of events; empty: nothing was read of it.

    Some servers say another content type, and some answer as a whole although a stream was asked
    for: such an answer is read as its events. Raises UpstreamFailure for anything else: the error
    in the body, if there is one.
    """
    if response.content_type == "text/event-stream":
        return b""
    begun = b""
    while len(begun) < _SIGN_BYTES and (data := await http_call.read_some(response, bounds)):
        begun = (begun + data).lstrip()
    if begun.startswith(_EVENT_SIGNS):
        return begun
    most_bytes = min(max_bytes, MAX_WHOLE_BYTES)
    text = begun + await http_call.read_at_most(response, most_bytes, bounds)
    failure = failures.failure_in(text[:MAX_ERROR_BODY_BYTES])
    if failure is not None:
        raise failure
    if len(text) <= most_bytes and (events := _whole_as_events(text)):
        return events
    message = f"the answer is {one_line(response.content_type, 100)}, not an event stream"
    raise UpstreamFailure(FailureKind.PROTOCOL, message)


def _whole_as_events(text: bytes) -> bytes:
    """A whole answer of either dialect as events of a stream; empty: it is none."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return b""
    if not isinstance(value, dict):
        return b""
    events: list[dict[str, Any]] = []
    if value.get("choices"):
        events.append(value)
    elif value.get("type") == "message" and isinstance(value.get("content"), list):
        events.append({"type": "message_start", "message": {**value, "content": []}})
        for index, block in enumerate(value["content"]):
            start = {"type": "content_block_start", "index": index, "content_block": block}
            events += [start, {"type": "content_block_stop", "index": index}]
        end = {"stop_reason": value.get("stop_reason"), "stop_sequence": value.get("stop_sequence")}
        events.append({"type": "message_delta", "delta": end, "usage": value.get("usage")})
        events.append({"type": "message_stop"})
    return b"".join(b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events)


def _last_payloads(reader: SseReader) -> list[bytes]:
    """The event that lacks its last empty line at the end of input; none if it was cut."""
    found: list[bytes] = []
    for payload in reader.end():
        # Of several, with single line ends between them, the last one may be cut.
        for each in (payload,) if _is_whole(payload) else payload.split(b"\n"):
            if not _is_whole(each):
                break
            found.append(each)
    return found


def _is_whole(payload: bytes) -> bool:
    try:
        read_json(payload)
    except NotJson:
        return False
    return True


def _payloads(reader: SseReader, data: bytes) -> list[bytes]:
    try:
        events = reader.feed(data)
    except EventTooLarge as error:
        raise UpstreamFailure(FailureKind.PROTOCOL, f"the stream has {error}") from error
    for event in events:
        if len(event) > LARGE_EVENT_BYTES:
            _check_elements(event)
    return events


def _check_elements(event: bytes) -> None:
    """Raises UpstreamFailure for an event of so many elements that its decoding would take long."""
    if event.count(b"{") + event.count(b"[") > MAX_EVENT_ELEMENTS:
        message = f"the stream has an event of more than {MAX_EVENT_ELEMENTS} elements"
        raise UpstreamFailure(FailureKind.PROTOCOL, message)


def _parts(data: bytes) -> Iterable[bytes]:
    """The data itself, unless it is large."""
    if len(data) <= PART_BYTES:
        return (data,)
    return (data[i : i + PART_BYTES] for i in range(0, len(data), PART_BYTES))
