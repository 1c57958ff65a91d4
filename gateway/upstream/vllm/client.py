"""Client of one vLLM server: generations as streams, and queries about the server."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import msgspec

from gateway.config.gateway import TimeoutsConfig
from gateway.domain.failures import FailureKind, UpstreamFailure
from gateway.domain.generation import Chunk, Generation
from gateway.domain.hops import hop_headers
from gateway.domain.pooling import PoolingInput
from gateway.domain.prompt_bound import prompt_token_bound
from gateway.domain.slices import Steps, in_slices
from gateway.upstream.answer_bounds import bounds_of
from gateway.upstream.http import call as http_call
from gateway.upstream.http.answer_size import max_answer_bytes
from gateway.upstream.http.call import CallBounds, HttpRequest
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace, Unhurried
from gateway.upstream.http.stream import Call, open_good, stream_chunks
from gateway.upstream.http.whole import whole_chunk
from gateway.upstream.lenient import count
from gateway.upstream.openai import wire
from gateway.upstream.openai.body import generation_path
from gateway.upstream.openai.pooling import pooled_chunk
from gateway.upstream.openai.stream import StreamDecoder
from gateway.upstream.token_estimate import MAX_TOKENS, estimated_prompt_tokens
from gateway.upstream.usage_claims import UNSEEN_PROMPT_TOKENS
from gateway.upstream.vllm import steps_feed
from gateway.upstream.vllm.body import tokenize_body, vllm_body
from gateway.upstream.vllm.pooling import vllm_pooling_body, vllm_pooling_path

MAX_ANSWER_BYTES = 4 * 1024 * 1024
TOKENIZE_BYTES_PER_BYTE = 16
"""Bytes of the answer of /tokenize for each byte asked, as it lists every token id."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ListedModel:
    """A model that a server lists. `context_tokens`: None if not reported. `parent`: base model of
    a LoRA adapter; empty: it is no adapter."""

    context_tokens: int | None = None
    parent: str = ""


class VllmClient:
    """One self-hosted vLLM server. Server and connection errors raise UpstreamFailure.

    `base_url`: without /v1. `control_url`: of an engine behind the proxy at `base_url`, which is
    asked all but generations; None: there is no proxy. `session` is the caller's, and outlives
    this. `adapters`: the server's names of LoRA adapters, by those of clients. A generation for any
    other adapter names it as the server does; `model`: the name that is none (None: no generation
    is for an adapter). `pace`: how large pieces of streams shall be; `extra`: fields that every
    body of a generation gets; `control_timeout_s`: of each call but `stream`.
    """

    def __init__(
        self,
        *,
        session: HttpSession,
        base_url: str,
        upstream_model: str,
        api_key: str | None,
        timeouts: TimeoutsConfig,
        control_url: str | None = None,
        model: str | None = None,
        adapters: Mapping[str, str] | None = None,
        pace: Pace | None = None,
        extra: Mapping[str, msgspec.Raw] | None = None,
        control_timeout_s: float = 10.0,
    ) -> None:
        self.session = session
        self._base_url = base_url.rstrip("/")
        self._control_url = (control_url or base_url).rstrip("/")
        self._is_stage = control_url is not None
        self._upstream_model = upstream_model
        self._names = frozenset((upstream_model, model or upstream_model))
        self._has_adapters = model is not None
        self._adapters = adapters or {}
        self._timeouts = timeouts
        self._pace: Pace = pace or Unhurried()
        self._extra: Mapping[str, msgspec.Raw] = extra or {}
        self._control_timeout_s = control_timeout_s
        # Compression would hold frames back until a block of it is full.
        self._headers = {"Accept-Encoding": "identity"}
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come, one for what a network read holds; the last carries the usage.
        Vectors and scores come as one chunk.

        `deadline_s`: on the event loop's clock.
        """
        pooling = generation.input
        if isinstance(pooling, PoolingInput):
            body = vllm_pooling_body(generation, pooling, self._name_of(generation), self._extra)
            call = self._call(generation, vllm_pooling_path(pooling), body, "application/json")
            decode = partial(pooled_chunk, generation, pooling)
            return self._known(generation, whole_chunk(call, decode, deadline_s=deadline_s))
        name, tokens = self._name_of(generation), self._pace.tokens_per_chunk
        body = vllm_body(generation, name, tokens, self._extra)
        call = self._call(generation, generation_path(generation), body, "text/event-stream")
        decoder = StreamDecoder(
            generation.choices,
            prompt_tokens=lambda: estimated_prompt_tokens(generation),
            usage_by_choice=True,
            bounds=bounds_of(generation),
            is_stage=self._is_stage,
        )
        return self._known(generation, stream_chunks(call, decoder, deadline_s=deadline_s))

    def _is_adapter(self, generation: Generation) -> bool:
        return self._has_adapters and generation.model not in self._names

    def _name_of(self, generation: Generation) -> str:
        """The server's name of the model or adapter."""
        if not self._is_adapter(generation):
            return self._upstream_model
        return self._adapters.get(generation.model, generation.model)

    def _known(
        self, generation: Generation, chunks: AsyncGenerator[Chunk, None]
    ) -> AsyncGenerator[Chunk, None]:
        return _adapter_chunks(chunks) if self._is_adapter(generation) else chunks

    def _call(self, generation: Generation, path: str, body: Steps[bytes], accept: str) -> Call:
        """`path`: behind /v1."""
        hints = generation.hints
        headers = {
            **self._headers,
            "Accept": accept,
            "Content-Type": "application/json",
            "X-Request-Id": generation.request_id,
            **hop_headers(generation.hops),
            **dict(hints.trace_headers),
        }
        if hints.dp_rank is not None:
            headers["X-data-parallel-rank"] = str(hints.dp_rank)
        request = HttpRequest(
            session=self.session,
            url=f"{self._base_url}/v1{path}",
            headers=headers,
            connect_s=self._timeouts.connect_s,
        )
        return Call(
            request=request,
            body=body,
            timeouts=self._timeouts,
            pace=self._pace,
            max_bytes=max_answer_bytes(generation),
        )

    async def count_tokens(self, generation: Generation) -> tuple[int, int | None]:
        """Prompt tokens, and the context length in tokens if the server reports it."""
        if isinstance(generation.input, tuple):
            return len(generation.input), None
        body = await in_slices(tokenize_body(generation, self._upstream_model, self._extra))
        max_bytes = MAX_ANSWER_BYTES + TOKENIZE_BYTES_PER_BYTE * len(body)
        answer = await self._request("POST", "/tokenize", max_bytes, body)
        counted = _decoded(wire.decode_token_count, answer)
        tokens = told_tokens(counted.count)
        if tokens is None or tokens > prompt_token_bound(generation) + UNSEEN_PROMPT_TOKENS:
            message = f"/tokenize tells {str(counted.count)[:40]} tokens, which cannot be"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        return tokens, told_tokens(counted.max_model_len)

    async def list_models(self) -> dict[str, ListedModel]:
        """What the server lists, by name."""
        models = _decoded(
            wire.decode_models, await self._request("GET", "/v1/models", MAX_ANSWER_BYTES)
        )
        return {
            model.id: ListedModel(
                context_tokens=told_tokens(model.max_model_len),
                parent=model.parent if isinstance(model.parent, str) else "",
            )
            for model in models.data
            if isinstance(model.id, str)
        }

    async def metrics(self) -> bytes:
        """The server's metrics in Prometheus' text format."""
        return await self._request("GET", "/metrics", MAX_ANSWER_BYTES)

    async def steps(self, cursors: Sequence[str]) -> bytes:
        """What the plugin `moegate-vllm` tells from the cursors on; see `steps_feed.py`."""
        query = "&".join(f"after={cursor}" for cursor in cursors)
        path = f"{steps_feed.PATH}?{query}" if query else steps_feed.PATH
        return await self._request("GET", path, MAX_ANSWER_BYTES)

    async def _request(
        self, method: str, path: str, max_bytes: int, body: bytes | None = None
    ) -> bytes:
        now_s = asyncio.get_running_loop().time()
        limit_s = self._control_timeout_s
        bounds = CallBounds(now_s, first_s=limit_s, idle_s=limit_s, end_s=math.inf)
        headers = self._headers
        if body is not None:
            headers = headers | {"Content-Type": "application/json"}
        request = HttpRequest(
            session=self.session,
            method=method,
            url=self._control_url + path,
            headers=headers,
            body=body,
            connect_s=self._timeouts.connect_s,
        )
        response = await open_good(request, bounds)
        try:
            answer = await http_call.read_at_most(response, max_bytes, bounds)
        finally:
            bounds.close()
            response.close()
        if len(answer) > max_bytes:
            message = f"{path} answers with more than {max_bytes} bytes"
            raise UpstreamFailure(FailureKind.PROTOCOL, message)
        return answer


def told_tokens(value: object) -> int | None:
    """A number of tokens that a server tells; None: it can be none."""
    tokens = count(value)
    return tokens if tokens is not None and 0 < tokens <= MAX_TOKENS else None


async def _adapter_chunks(chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
    """The chunks of a generation for an adapter, which may have been unloaded meanwhile."""
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                yield chunk
    except UpstreamFailure as failure:
        if failure.kind is not FailureKind.MODEL_NOT_FOUND:
            raise
        raise UpstreamFailure(FailureKind.ADAPTER_NOT_FOUND, failure.message) from failure


def _decoded(decode: Callable[[bytes], T], answer: bytes) -> T:
    try:
        return decode(answer)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UpstreamFailure(
            FailureKind.PROTOCOL, "the answer is not the JSON expected"
        ) from error
