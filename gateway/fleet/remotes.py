"""The client of a remote, by the API that it speaks.

A new dialect is a folder below `gateway/upstream`, a value of `RemoteApi` and a case of
`remote_client`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import msgspec

from gateway.config.gateway import RemoteConfig, TimeoutsConfig
from gateway.config.remote import (
    Feature,
    HistoryConfig,
    MaxTokensField,
    OtherGatewayConfig,
    ReasoningRequest,
    RemoteApi,
    usual_reasoning_request,
)
from gateway.config.resolve.secrets import resolve
from gateway.config.tasks import Task
from gateway.domain.generation import Chunk, Generation
from gateway.upstream.anthropic.body import ANTHROPIC_FEATURES, REFUSED_TOGETHER
from gateway.upstream.anthropic.client import AnthropicClient
from gateway.upstream.features import Capabilities, capabilities
from gateway.upstream.histories import usual_history
from gateway.upstream.http.answer_size import MAX_POOLED_BYTES
from gateway.upstream.http.connections import HttpSession
from gateway.upstream.http.loop_load import Pace
from gateway.upstream.moegate.client import (
    MAX_ANSWER_BYTES,
    Address,
    ForwardingPolicy,
    MoegateClient,
)
from gateway.upstream.moegate.messages import MOEGATE_FEATURES
from gateway.upstream.openai.body import openai_features
from gateway.upstream.openai.client import OpenAIClient
from gateway.upstream.openai.reasoning import REFUSED_REASONING
from gateway.upstream.session_hint import SessionHint
from gateway.upstream.signatures import origin_of


class RemoteClient(Protocol):
    """The client of a remote, whatever its API."""

    @property
    def features(self) -> frozenset[Feature]:
        """Features that requests may use."""

    @property
    def origin(self) -> str:
        """Origin of the signatures that it makes or passes on."""

    def unsupported_fields(self, generation: Generation) -> tuple[str, ...]:
        """Fields of the request that are set and that it cannot honour."""

    def stream(self, generation: Generation, *, deadline_s: float) -> AsyncGenerator[Chunk, None]:
        """Runs a generation. Raises UpstreamFailure."""

    async def close_when_idle(self) -> None:
        """Closes its connections once its last stream has ended."""

    async def close(self) -> None:
        """Closes its connections, and so ends its streams."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteConnection:
    """How a remote is called, with its secrets and files read. While it stays equal over a reload,
    the same client serves."""

    api: RemoteApi
    task: Task
    url: str
    url_prefix: str
    upstream_model: str
    api_key: str | None = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    extra_body_json: str | None
    batch_body_json: str | None
    can: frozenset[Feature]
    cannot: tuple[str, ...]
    drop: tuple[Feature, ...]
    history: HistoryConfig
    reasoning_request: ReasoningRequest
    session_hint: SessionHint | None
    max_tokens_field: MaxTokensField
    gateway: OtherGatewayConfig
    tls: tuple[bytes | None, bytes | None, bytes | None] | None = field(repr=False)
    """Root certificates, private key and chain, for another moegate over TLS."""
    timeouts: TimeoutsConfig

    @property
    def origin(self) -> str:
        """Origin of the signatures that the remote makes or passes on."""
        return origin_of(self.api.value, self.url + self.url_prefix, self.upstream_model)

    def capabilities(
        self, usual: frozenset[Feature], together: Iterable[frozenset[Feature]] = ()
    ) -> Capabilities:
        """What it takes. `usual`: features of its API; `together`: sets of them that it refuses."""
        return capabilities(
            usual, can=self.can, cannot=self.cannot, drop=self.drop, together=together
        )


def remote_connection(remote: RemoteConfig, base_dir: Path) -> RemoteConnection:
    """Reads what the configuration names. Raises ConfigError for a secret that cannot be read."""
    headers = (
        (header.name, resolve(header.secret, base_dir) or header.value or "")
        for header in remote.headers
    )
    return RemoteConnection(
        api=remote.api,
        task=remote.task,
        url=remote.url.rstrip("/"),
        url_prefix=remote.url_prefix,
        upstream_model=remote.upstream_model or remote.model,
        api_key=resolve(remote.api_key, base_dir),
        headers=tuple(headers),
        extra_body_json=remote.extra_body_json,
        batch_body_json=remote.batch_body_json,
        can=frozenset(remote.can),
        cannot=remote.cannot,
        drop=remote.drop,
        history=remote.history or usual_history(remote.api, remote.url),
        reasoning_request=remote.reasoning_request or usual_reasoning_request(remote.url),
        session_hint=_session_hint(remote, base_dir),
        max_tokens_field=remote.max_tokens_field,
        gateway=remote.gateway,
        tls=_tls(remote, base_dir),
        timeouts=remote.timeouts,
    )


def remote_client(remote: RemoteConnection, session: HttpSession, pace: Pace) -> RemoteClient:
    """Makes the client; nothing is connected yet."""
    match remote.api:
        case RemoteApi.ANTHROPIC:
            return AnthropicClient(
                session=session,
                base_url=remote.url + remote.url_prefix,
                upstream_model=remote.upstream_model,
                api_key=remote.api_key,
                timeouts=remote.timeouts,
                pace=pace,
                capabilities=remote.capabilities(ANTHROPIC_FEATURES, REFUSED_TOGETHER),
                history=remote.history,
                session_hint=remote.session_hint,
                origin=remote.origin,
                extra=extra_body(remote.extra_body_json),
                headers=dict(remote.headers),
            )
        case RemoteApi.MOEGATE:
            options = remote.gateway
            return MoegateClient(
                address=Address(target=remote.url.partition("://")[2], tls=remote.tls),
                upstream_model=remote.upstream_model,
                api_key=remote.api_key,
                timeouts=remote.timeouts,
                policy=ForwardingPolicy(
                    local_only=options.local_only,
                    shared_classes=frozenset(options.shared_classes),
                    tell_slo=options.tell_slo,
                    max_priority=options.max_priority,
                    max_hops=options.max_hops,
                ),
                capabilities=remote.capabilities(MOEGATE_FEATURES),
                session_hint=remote.session_hint,
                origin=remote.origin,
                headers=dict(remote.headers),
                max_message_bytes=(
                    MAX_ANSWER_BYTES if remote.task is Task.GENERATE else MAX_POOLED_BYTES
                ),
            )
        case RemoteApi.OPENAI:
            return OpenAIClient(
                session=session,
                base_url=remote.url + remote.url_prefix,
                upstream_model=remote.upstream_model,
                api_key=remote.api_key,
                timeouts=remote.timeouts,
                pace=pace,
                capabilities=remote.capabilities(
                    openai_features(remote.reasoning_request),
                    REFUSED_REASONING[remote.reasoning_request],
                ),
                reasoning_request=remote.reasoning_request,
                history=remote.history,
                session_hint=remote.session_hint,
                origin=remote.origin,
                max_tokens_field=remote.max_tokens_field,
                extra=extra_body(remote.extra_body_json),
                batch_extra=extra_body(remote.batch_body_json),
                headers=dict(remote.headers),
            )


def _session_hint(remote: RemoteConfig, base_dir: Path) -> SessionHint | None:
    hint = remote.session_hint
    if hint is None:
        return None
    return SessionHint(
        secret=resolve(hint.secret, base_dir) or "",
        header=hint.header,
        body_field=hint.body_field,
    )


def _tls(
    remote: RemoteConfig, base_dir: Path
) -> tuple[bytes | None, bytes | None, bytes | None] | None:
    """The files are readable PEM: `check_gateway.py` has checked them."""
    if not remote.url.startswith("grpcs://"):
        return None
    options = remote.gateway
    ca, key, cert = (
        None if file is None else (base_dir / file).read_bytes()
        for file in (options.ca, options.key, options.cert)
    )
    return ca, key, cert


def extra_body(text: str | None) -> Mapping[str, msgspec.Raw]:
    """Fields that every body gets. The text is a JSON object: `check_remote.py` has checked it.
    Copies, because a Raw would keep the whole text alive."""
    if text is None:
        return {}
    fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return {name: value.copy() for name, value in fields.items()}
