"""Client of one Anthropic-shaped HTTP endpoint: generations as streams."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any

import msgspec

from gateway.config.gateway import TimeoutsConfig
from gateway.config.remote import Feature, HistoryConfig
from gateway.domain.generation import Chunk, Generation
from gateway.domain.hops import hop_headers
from gateway.upstream.answer_bounds import bounds_of
from gateway.upstream.anthropic.body import (
    ANTHROPIC_FEATURES,
    PATH,
    REFUSED_TOGETHER,
    messages_body,
    plain,
    unsupported_fields,
)
from gateway.upstream.anthropic.stream import MessageDecoder
from gateway.upstream.features import Capabilities
from gateway.upstream.features import capabilities as capabilities_of
from gateway.upstream.http.answer_size import max_answer_bytes
from gateway.upstream.http.call import HttpRequest
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace, Unhurried
from gateway.upstream.http.stream import Call, stream_chunks
from gateway.upstream.session_hint import SessionHint
from gateway.upstream.token_estimate import estimated_prompt_tokens

VERSION = "2023-06-01"
"""Version of the API, in the header anthropic-version; a configured header replaces it."""


class AnthropicClient:
    """One remote endpoint. Server and connection errors raise UpstreamFailure.

    `base_url`: with /v1. `session` is the caller's, and outlives this. `capabilities`: by
    default `ANTHROPIC_FEATURES`; `history`: what it wants in earlier turns; `origin`: of its
    signatures; `extra`: fields that every body gets; `headers`: further ones, of every call.
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
        origin: str = "",
        extra: Mapping[str, msgspec.Raw] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.session = session
        self.origin = origin
        self._capabilities = capabilities or capabilities_of(
            ANTHROPIC_FEATURES, together=REFUSED_TOGETHER
        )
        self._url = base_url.rstrip("/") + PATH
        self._upstream_model = upstream_model
        self._timeouts = timeouts
        self._pace: Pace = pace or Unhurried()
        self._extra: Mapping[str, Any] = extra or {}
        self._history = history or HistoryConfig()
        self._session_hint = session_hint
        self._headers = {
            # Compression would hold events back until a block of it is full.
            "Accept-Encoding": "identity",
            "Accept": "text/event-stream",
            "Content-Type": "application/json",
            "anthropic-version": VERSION,
            **(headers or {}),
        }
        if api_key is not None:
            self._headers["x-api-key"] = api_key

    @property
    def features(self) -> frozenset[Feature]:
        """Features that requests may use."""
        return self._capabilities.features

    def unsupported_fields(self, generation: Generation) -> tuple[str, ...]:
        """Fields of GenerateRequest that are set and that it cannot honour."""
        generation = self._capabilities.fitted(plain(generation))
        fields = (
            *self._capabilities.unsupported(generation),
            *unsupported_fields(
                generation, self.features, origin=self.origin, history=self._history
            ),
        )
        return tuple(dict.fromkeys(fields))

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Chunks as they come; the last carries the usage. `deadline_s`: on the event loop's
        clock. Raises ValueError if the API cannot express the generation (`unsupported_fields`)."""
        generation = self._capabilities.fitted(plain(generation))
        headers, extra = self._headers | hop_headers(generation.hops), self._extra
        if (hint := self._session_hint) is not None:
            headers = {**headers, **hint.headers(generation.session)}
            extra = {**extra, **hint.fields(generation.session)}
        body = messages_body(
            generation,
            self._upstream_model,
            self.features,
            extra,
            origin=self.origin,
            history=self._history,
        )
        request = HttpRequest(
            session=self.session,
            url=self._url,
            headers=headers,
            connect_s=self._timeouts.connect_s,
        )
        call = Call(
            request=request,
            body=body,
            timeouts=self._timeouts,
            pace=self._pace,
            max_bytes=max_answer_bytes(generation),
        )
        decoder = MessageDecoder(
            lambda: estimated_prompt_tokens(generation),
            origin=self.origin,
            bounds=bounds_of(generation),
        )
        return stream_chunks(call, decoder, deadline_s=deadline_s)

    async def close_when_idle(self) -> None:
        """Nothing to do: the session is the caller's."""

    async def close(self) -> None:
        """Nothing to do: the session is the caller's."""
