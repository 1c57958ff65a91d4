"""Client of OpenAI-shaped HTTP APIs: vLLM servers and remote providers.

Streams are read as bytes; a call that is given up closes its connection, so that the engine stops.
Connect, first-token, idle and total time each have a limit. Limits are set around single reads:
one that spanned a `yield` would strike while the consumer runs.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import aiohttp

from gateway.backends.failures import FailureKind, UpstreamFailure
from gateway.backends.openai_answers import Guard, check_content_type, decode, http_failure
from gateway.backends.openai_body import Dialect, body, path, tokenize_body
from gateway.backends.openai_stream import StreamState
from gateway.backends.openai_wire import ModelList, TokenCount
from gateway.backends.sse import OversizedEvent, SseReader
from gateway.config import Timeouts
from gateway.generation import Chunk, Generation

QUESTION_TIMEOUT_S = 10.0
"""Limit on the small calls beside generations: models, tokens, metrics."""
MAX_ANSWER_BYTES = 4 << 20
"""Bound on what is read of a small call's answer: /metrics of a real server has 80 KB."""
BYTES_PER_TOKEN = 4
"""For the estimate of a prompt's tokens where the upstream tells no usage at all."""


class OpenAIHttpBackend:
    """One upstream. The session belongs to the server; its connections are shared."""

    def __init__(
        self,
        *,
        session: aiohttp.ClientSession,
        base_url: str,
        upstream_model: str,
        dialect: Dialect,
        api_key: str | None,
        timeouts: Timeouts,
    ) -> None:
        self._session = session
        self._base_url = base_url.rstrip("/")
        self._upstream_model = upstream_model
        self._dialect = dialect
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeouts = timeouts
        self._connect_timeout = aiohttp.ClientTimeout(
            total=None, connect=timeouts.connect_s, sock_connect=timeouts.connect_s
        )

    async def stream(
        self, generation: Generation, *, deadline_s: float
    ) -> AsyncGenerator[Chunk, None]:
        """Chunks as they arrive, all that one read brings as one; the last carries the usage.

        `deadline_s` is on the clock of the event loop. Without usage from the upstream the counts
        are estimates: a token for each frame, and the prompt's bytes by four. Raises
        UpstreamFailure.
        """
        now_s = asyncio.get_running_loop().time
        payload = body(generation, self._upstream_model, self._dialect)
        state = StreamState(generation, len(payload) // BYTES_PER_TOKEN)
        reader = SseReader()
        limits = _Limits(self._timeouts, deadline_s, now_s())
        async with limits.guard():
            response = await self._send("POST", path(generation), payload, generation.request_id)
        try:
            if response.status != 200:
                async with limits.guard():
                    raise await http_failure(response)
            check_content_type(response)
            while True:
                async with limits.guard():
                    data = await response.content.readany()
                if not data:
                    break
                try:
                    chunk = state.take(reader.feed(data))
                except OversizedEvent as error:
                    raise UpstreamFailure(FailureKind.PROTOCOL, str(error)) from None
                if chunk.output_tokens > 0:
                    limits.idle_from(now_s())
                if chunk.deltas:
                    yield chunk
            if reader.pending:
                message = "the stream ended inside an event"
                raise UpstreamFailure(FailureKind.SERVER_ERROR, message)
            yield state.end()
        finally:
            # A connection that was read to its end is back in the pool, and this does nothing to
            # it. Any other is closed: that is what makes the engine stop.
            response.close()

    async def count_tokens(self, generation: Generation) -> tuple[int, int | None]:
        """Tokens of the prompt, and the context length, by vLLM. Raises UpstreamFailure."""
        question = tokenize_body(generation, self._upstream_model)
        counted = decode(await self._ask("POST", "/tokenize", question), TokenCount)
        return counted.count, counted.max_model_len

    async def list_models(self) -> dict[str, int | None]:
        """Context length by model name. Raises UpstreamFailure."""
        listed = decode(await self._ask("GET", "/v1/models"), ModelList)
        return {card.id: card.max_model_len for card in listed.data}

    async def metrics(self) -> bytes:
        """The Prometheus text. Raises UpstreamFailure."""
        return await self._ask("GET", "/metrics")

    async def _send(
        self, method: str, where: str, data: bytes | None, request_id: str = ""
    ) -> aiohttp.ClientResponse:
        headers = {**self._headers, "X-Request-Id": request_id} if request_id else self._headers
        return await self._session.request(
            method,
            self._base_url + where,
            data=data,
            headers=headers,
            timeout=self._connect_timeout,
            allow_redirects=False,
        )

    async def _ask(self, method: str, where: str, data: bytes | None = None) -> bytes:
        until_s = asyncio.get_running_loop().time() + QUESTION_TIMEOUT_S
        late = f"{where}: no answer within {QUESTION_TIMEOUT_S:g} s"
        async with Guard(until_s, FailureKind.TIMEOUT, late):
            response = await self._send(method, where, data)
            try:
                if response.status != 200:
                    raise await http_failure(response)
                answer = bytearray()
                while piece := await response.content.readany():
                    answer += piece
                    if len(answer) > MAX_ANSWER_BYTES:
                        message = f"{where}: more than {MAX_ANSWER_BYTES} bytes"
                        raise UpstreamFailure(FailureKind.PROTOCOL, message)
                return bytes(answer)
            finally:
                response.close()


class _Limits:
    """Until when the next byte must come, and what it means when it does not."""

    def __init__(self, timeouts: Timeouts, deadline_s: float, sent_s: float) -> None:
        self._idle_s = timeouts.idle_s
        self._deadline_s = deadline_s
        self._total_s = sent_s + timeouts.total_s
        self._next_s = sent_s + timeouts.first_token_s
        self._what = f"no first token within {timeouts.first_token_s:g} s"

    def idle_from(self, now_s: float) -> None:
        """A token came: the next one has its own limit."""
        self._next_s = now_s + self._idle_s
        self._what = f"no token within {self._idle_s:g} s of the last one"

    def guard(self) -> Guard:
        """Puts the nearest limit on an await. Raises UpstreamFailure."""
        first_s = min(self._next_s, self._deadline_s, self._total_s)
        if first_s == self._next_s:
            return Guard(first_s, FailureKind.TIMEOUT, self._what)
        if first_s == self._deadline_s:
            return Guard(first_s, FailureKind.DEADLINE, "the deadline of the request passed")
        return Guard(first_s, FailureKind.DEADLINE, "the whole call took too long (total_s)")
