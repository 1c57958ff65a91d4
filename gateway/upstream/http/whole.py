"""One request over HTTP whose answer comes as a whole: send, read within bounds, decode.

A call that is left early, by a cancellation or a deadline, closes its connection at once: that is
what makes the engine abort.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import msgspec
from msgspec import structs

from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk
from gateway.domain.slices import Steps, in_slices
from gateway.upstream.http import call as http_call
from gateway.upstream.http import failures
from gateway.upstream.http.stream import (
    MAX_ERROR_BODY_BYTES,
    Call,
    open_good,
    stream_bounds,
    too_long,
)

Decode = Callable[[bytes], Steps[Chunk]]
"""Decodes a whole answer. Raises UpstreamFailure, or what msgspec raises."""


async def whole_chunk(
    call: Call, decode: Decode, *, deadline_s: float
) -> AsyncGenerator[Chunk, None]:
    """The whole answer as one chunk, with the usage. `deadline_s`: on the event loop's clock."""
    now_s = asyncio.get_running_loop().time()
    bounds = stream_bounds(call.timeouts, now_s, deadline_s)
    if bounds.next_s <= now_s:
        raise bounds.failure()
    request = structs.replace(call.request, body=await in_slices(call.body))
    response = await open_good(request, bounds)
    try:
        answer = await http_call.read_at_most(response, call.max_bytes, bounds)
    finally:
        bounds.close()
        # No effect after the body's end: the connection is back in the pool by then.
        response.close()
    if len(answer) > call.max_bytes:
        raise too_long(call.max_bytes)
    yield await _decoded(decode, answer)


async def _decoded(decode: Decode, answer: bytes) -> Chunk:
    try:
        return await in_slices(decode(answer))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        failure = None
        if len(answer) <= MAX_ERROR_BODY_BYTES:
            failure = failures.failure_in(answer)
        if failure is None:
            failure = UpstreamFailure(FailureKind.PROTOCOL, "the answer is not the JSON expected")
        raise failure from error
