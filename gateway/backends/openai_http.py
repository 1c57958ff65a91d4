"""Client of one OpenAI-shaped HTTP server: generations as streams, and small questions.

A stream that is left early, by a failure, a cancellation or a deadline, closes its connection at
once: that is what makes the engine abort.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import aiohttp
import msgspec

from gateway.backends import http_call
from gateway.backends import openai_wire as wire
from gateway.backends.failures import FailureKind, UpstreamFailure
from gateway.backends.http_call import CallBounds
from gateway.backends.openai_body import (
    Dialect,
    generation_body,
    generation_path,
    tokenize_body,
)
from gateway.backends.openai_failures import (
    MAX_ERROR_BODY_BYTES,
    error_in,
    http_failure,
    in_band_failure,
    one_line,
)
from gateway.backends.openai_stream import StreamDecoder
from gateway.backends.openai_usage import estimated_prompt_tokens
from gateway.backends.sse import EventTooLarge, SseReader
from gateway.config import Timeouts
from gateway.generation import Chunk, Generation
from gateway.loop_load import Pace, Unhurried

ERROR_BODY_S = 2.0
"""How long the body of an error is waited for, its status being known."""
MAX_ANSWER_BYTES = 4 * 1024 * 1024
MAX_TOKENIZE_BYTES = 64 * 1024 * 1024
"""/tokenize lists every token id: these are some 9 million."""

T = TypeVar("T")


class OpenAIHttpBackend:
    """One server, or one remote endpoint. What goes wrong there is an UpstreamFailure.

    `base_url`: without /v1. `session` is the caller's, and outlives this.
    `control_timeout_s`: of each call but `stream`. `pace`: how large pieces of streams shall be.
    """

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        base_url: str,
        upstream_model: str,
        dialect: Dialect,
        api_key: str | None,
        timeouts: Timeouts,
        pace: Pace | None = None,
        control_timeout_s: float = 10.0,
    ) -> None:
        self.session = session
        self._base_url = base_url.rstrip("/")
        self._upstream_model = upstream_model
        self._dialect = dialect
        self._timeouts = timeouts
        self._pace: Pace = pace or Unhurried()
        self._control_timeout_s = control_timeout_s
        # Compression would hold frames back until a block of it is full.
        self._headers = {"Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    async def stream(
        self, generation: Generation, *, deadline_s: float
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come, one for what a network read holds; the last carries the usage.

        `deadline_s`: on the event loop's clock. Raises ValueError if the dialect does not support
        the generation (`unsupported_fields`).
        """
        now = asyncio.get_running_loop().time
        timeouts = self._timeouts
        pace = self._pace
        body = generation_body(
            generation, self._upstream_model, self._dialect, pace.tokens_per_chunk
        )
        decoder = StreamDecoder(
            generation.choices, self._dialect, lambda: estimated_prompt_tokens(generation)
        )
        reader = SseReader()
        bounds = CallBounds(
            now(),
            first_s=timeouts.first_token_s,
            idle_s=timeouts.idle_s,
            end_s=min(now() + timeouts.total_s, deadline_s),
        )
        if bounds.next_s <= now():
            raise bounds.failure()
        response = await self._open(
            "POST",
            generation_path(generation),
            bounds,
            body,
            self._stream_headers(generation),
        )
        try:
            await _check_event_stream(response, bounds)
            while not decoder.ended:
                if decoder.started and (window_s := pace.window_s) > 0:
                    # Under load: what comes meanwhile is read, decoded and sent as one.
                    await asyncio.sleep(window_s)
                try:
                    bounds.check_end(now())
                    data = await http_call.read_some(response, bounds)
                except UpstreamFailure:
                    # Nothing but the usage is missing: a whole answer is not thrown away for it.
                    if decoder.finished:
                        break
                    raise
                if not data:
                    break
                payloads = _payloads(reader, data)
                chunk = decoder.feed(payloads)
                if chunk is not None:
                    yield chunk
                # Comments are no output: proxies send them for a server that hangs. The clock is
                # read after the consumer has had its time, which is not the server's silence.
                if payloads and decoder.started:
                    bounds.note_output(now())
            yield decoder.end()
            await http_call.await_end(response)
        finally:
            bounds.close()
            # No effect after the body's end: the connection is back in the pool by then.
            response.close()

    async def count_tokens(self, generation: Generation) -> tuple[int, int | None]:
        """Prompt tokens, and the most that the context holds if the server tells. vLLM only."""
        if isinstance(generation.input, tuple):
            return len(generation.input), None
        body = tokenize_body(generation, self._upstream_model)
        answer = await self._ask("POST", "/tokenize", MAX_TOKENIZE_BYTES, body)
        counted = _decoded(wire.decode_token_count, answer)
        return counted.count, counted.max_model_len

    async def list_models(self) -> dict[str, int | None]:
        """Models that the server serves, with their context in tokens if it tells."""
        models = _decoded(
            wire.decode_models, await self._ask("GET", "/v1/models", MAX_ANSWER_BYTES)
        )
        return {model.id: model.max_model_len for model in models.data}

    async def metrics(self) -> bytes:
        """The server's metrics in Prometheus' text format."""
        return await self._ask("GET", "/metrics", MAX_ANSWER_BYTES)

    def _stream_headers(self, generation: Generation) -> dict[str, str]:
        headers = {"Accept": "text/event-stream", "X-Request-Id": generation.request_id}
        if self._dialect is Dialect.VLLM:
            headers |= dict(generation.hints.trace_headers)
        return headers

    async def _ask(
        self, method: str, path: str, max_bytes: int, body: bytes | None = None
    ) -> bytes:
        now_s = asyncio.get_running_loop().time()
        limit_s = self._control_timeout_s
        bounds = CallBounds(now_s, first_s=limit_s, idle_s=limit_s, end_s=math.inf)
        response = await self._open(method, path, bounds, body, {})
        try:
            answer = await http_call.read_at_most(response, max_bytes, bounds)
        finally:
            bounds.close()
            response.close()
        if len(answer) > max_bytes:
            message = f"{path} answers with more than {max_bytes} bytes"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        return answer

    async def _open(
        self,
        method: str,
        path: str,
        bounds: CallBounds,
        body: bytes | None,
        headers: dict[str, str],
    ) -> aiohttp.ClientResponse:
        """A response with status 200, for the caller to close."""
        headers = self._headers | headers
        if body is not None:
            headers["Content-Type"] = "application/json"
        response = await http_call.open_response(
            self.session,
            method,
            self._base_url + path,
            headers=headers,
            body=body,
            connect_s=self._timeouts.connect_s,
            bounds=bounds,
        )
        if response.status == 200:
            return response
        now_s = asyncio.get_running_loop().time()
        soon = CallBounds(now_s, first_s=ERROR_BODY_S, idle_s=ERROR_BODY_S, end_s=bounds.next_s)
        try:
            text = await http_call.read_at_most(response, MAX_ERROR_BODY_BYTES, soon)
        except UpstreamFailure:
            # The status alone says enough.
            text = b""
        finally:
            soon.close()
            response.close()
        retry_after = response.headers.get("Retry-After")
        raise http_failure(response.status, text, retry_after, time.time())


async def _check_event_stream(response: aiohttp.ClientResponse, bounds: CallBounds) -> None:
    """Raises UpstreamFailure for another type: an error under status 200, if it reads as one."""
    if response.content_type == "text/event-stream":
        return
    text = await http_call.read_at_most(response, MAX_ERROR_BODY_BYTES, bounds)
    error = error_in(text)
    if error is not None:
        raise in_band_failure(error)
    message = f"the answer is {one_line(response.content_type, 100)}, not an event stream"
    raise UpstreamFailure(FailureKind.PROTOCOL, message)


def _payloads(reader: SseReader, data: bytes) -> list[bytes]:
    try:
        return reader.feed(data)
    except EventTooLarge as error:
        raise UpstreamFailure(FailureKind.PROTOCOL, f"the stream has {error}") from error


def _decoded(decode: Callable[[bytes], T], answer: bytes) -> T:
    try:
        return decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailure(
            FailureKind.PROTOCOL, "the answer is not the JSON expected"
        ) from error
