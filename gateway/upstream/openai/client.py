"""Client of one remote OpenAI-shaped endpoint: generations as streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from functools import partial

import msgspec

from gateway.config.gateway import TimeoutsConfig
from gateway.config.remote import Feature, HistoryConfig, MaxTokensField, ReasoningRequest
from gateway.domain.generation import Chunk, Generation
from gateway.domain.hops import hop_headers
from gateway.domain.pooling import PoolingInput
from gateway.domain.slices import Steps
from gateway.upstream.answer_bounds import bounds_of
from gateway.upstream.features import Capabilities
from gateway.upstream.http.answer_size import max_answer_bytes
from gateway.upstream.http.call import HttpRequest
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace, Unhurried
from gateway.upstream.http.stream import Call, stream_chunks
from gateway.upstream.http.whole import whole_chunk
from gateway.upstream.openai.body import (
    OPENAI_FEATURES,
    BodyOptions,
    generation_body,
    generation_path,
)
from gateway.upstream.openai.pooling import pooled_chunk, pooling_body, pooling_path
from gateway.upstream.openai.stream import StreamDecoder
from gateway.upstream.session_hint import SessionHint
from gateway.upstream.token_estimate import estimated_prompt_tokens


class OpenAIClient:
    """One remote endpoint. Server and connection errors raise UpstreamFailure.

    `base_url`: with /v1. `session` is the caller's, and outlives this. `pace`: how large pieces of
    streams shall be; `capabilities`: by default `OPENAI_FEATURES`; `max_tokens_field`, `history`,
    `reasoning_request`, `origin`, `extra`: see `BodyOptions`; `batch_extra`: further fields of the
    bodies of batch work; `session_hint`: None: none is sent; `headers`: further ones of every call.
    """

    def __init__(
        self,
        *,
        session: HttpSession,
        base_url: str,
        upstream_model: str,
        api_key: str | None,
        timeouts: TimeoutsConfig,
        pace: Pace | None = None,
        capabilities: Capabilities | None = None,
        history: HistoryConfig | None = None,
        session_hint: SessionHint | None = None,
        max_tokens_field: MaxTokensField = MaxTokensField.MAX_TOKENS,
        reasoning_request: ReasoningRequest = ReasoningRequest.REASONING_EFFORT,
        origin: str = "",
        extra: Mapping[str, msgspec.Raw] | None = None,
        batch_extra: Mapping[str, msgspec.Raw] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.session = session
        self.origin = origin
        self._capabilities = capabilities or Capabilities(features=OPENAI_FEATURES)
        self._base_url = base_url.rstrip("/")
        self._upstream_model = upstream_model
        self._timeouts = timeouts
        self._pace: Pace = pace or Unhurried()
        self._options = BodyOptions(
            features=self.features,
            max_tokens_field=max_tokens_field,
            history=history or HistoryConfig(),
            reasoning_request=reasoning_request,
            origin=origin,
            extra=extra or {},
        )
        self._batch_extra = batch_extra or {}
        self._session_hint = session_hint
        self._headers = {
            # Compression would hold frames back until a block of it is full.
            "Accept-Encoding": "identity",
            **(headers or {}),
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
        }
        if api_key is not None:
            self._headers["Authorization"] = f"Bearer {api_key}"

    @property
    def features(self) -> frozenset[Feature]:
        """Features that requests may use."""
        return self._capabilities.features

    def unsupported_fields(self, generation: Generation) -> tuple[str, ...]:
        """Fields of GenerateRequest that are set and that it cannot honour."""
        return self._capabilities.unsupported(self._capabilities.fitted(generation))

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come, one for what a network read holds; the last carries the usage.
        Vectors and scores come as one chunk.

        `deadline_s`: on the event loop's clock. Raises ValueError on `unsupported_fields`.
        """
        generation = self._capabilities.fitted(generation)
        headers = self._headers | {"X-Request-Id": generation.request_id}
        headers |= hop_headers(generation.hops)
        options = self._options
        if generation.batch_work and self._batch_extra:
            options = replace(options, extra={**options.extra, **self._batch_extra})
        if (hint := self._session_hint) is not None:
            headers |= hint.headers(generation.session)
            options = replace(options, extra={**options.extra, **hint.fields(generation.session)})
        pooling = generation.input
        if isinstance(pooling, PoolingInput):
            if fields := self.unsupported_fields(generation):
                raise ValueError(f"the server cannot honour {', '.join(fields)}")
            body = pooling_body(generation, pooling, self._upstream_model, options.extra)
            headers["Accept"] = "application/json"
            call = self._call(generation, pooling_path(pooling), headers, body)
            decode = partial(pooled_chunk, generation, pooling)
            return whole_chunk(call, decode, deadline_s=deadline_s)
        body = generation_body(generation, self._upstream_model, options)
        call = self._call(generation, generation_path(generation), headers, body)
        decoder = StreamDecoder(
            generation.choices,
            prompt_tokens=lambda: estimated_prompt_tokens(generation),
            origin=self.origin,
            bounds=bounds_of(generation),
        )
        return stream_chunks(call, decoder, deadline_s=deadline_s)

    def _call(
        self, generation: Generation, path: str, headers: Mapping[str, str], body: Steps[bytes]
    ) -> Call:
        request = HttpRequest(
            session=self.session,
            url=self._base_url + path,
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

    async def close_when_idle(self) -> None:
        """Nothing to do: the session is the caller's."""

    async def close(self) -> None:
        """Nothing to do: the session is the caller's."""
