"""A remote of the configuration as what serves: its placement, its client, what it cannot do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from gateway.config.gateway import HeaderConfig, RemoteConfig
from gateway.config.remote import Feature, RemoteApi
from gateway.config.secrets import resolve
from gateway.domain.generation import Generation
from gateway.domain.hops import HOPS_FIELD
from gateway.upstream.anthropic import body as anthropic_body
from gateway.upstream.anthropic.http import AnthropicHttpBackend
from gateway.upstream.features import (
    ANTHROPIC_FEATURES,
    MOEGATE_FEATURES,
    OPENAI_FEATURES,
    unsupported,
)
from gateway.upstream.http.loop_load import Pace
from gateway.upstream.moegate.client import Address, MoegateGrpcBackend, Policy
from gateway.upstream.openai.body import BodyOptions, Dialect
from gateway.upstream.openai.http import OpenAIHttpBackend
from scheduler.contract import PlacementKind
from scheduler.limits.rate_limit import RateLimits
from scheduler.placement_state import Placement

AnyBackend = OpenAIHttpBackend | AnthropicHttpBackend | MoegateGrpcBackend
"""The client of a placement."""
Unsupported = Callable[[Generation], tuple[str, ...]]
"""Fields of a request that a placement cannot honour."""

_FEATURES = {
    RemoteApi.OPENAI: OPENAI_FEATURES,
    RemoteApi.ANTHROPIC: ANTHROPIC_FEATURES,
    RemoteApi.MOEGATE: MOEGATE_FEATURES,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteParts:
    """What one remote adds to a running gateway."""

    placement: Placement
    backend: AnyBackend
    unsupported: Unsupported
    features: frozenset[Feature]


def features_of(remote: RemoteConfig) -> frozenset[Feature]:
    """What the remote can do."""
    return (_FEATURES[remote.api] | set(remote.can)) - set(remote.cannot)


def remote_parts(
    remote: RemoteConfig, base_dir: Path, session: aiohttp.ClientSession, pace: Pace
) -> RemoteParts:
    """Builds them. Raises ConfigError when a secret cannot be read."""
    features = features_of(remote)
    return RemoteParts(
        placement=_placement(remote),
        backend=_backend(remote, features, base_dir, session, pace),
        unsupported=_unsupported(remote, features),
        features=features,
    )


def _placement(remote: RemoteConfig) -> Placement:
    limits = remote.limits
    return Placement(
        name=remote.name,
        kind=PlacementKind.REMOTE,
        model=remote.model,
        max_running=remote.max_concurrency,
        remote_class=remote.remote_class,
        context_tokens=remote.context_tokens,
        send_limits=RateLimits(
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        ),
        fate=remote.fails_with or "",
    )


def _backend(
    remote: RemoteConfig,
    features: frozenset[Feature],
    base_dir: Path,
    session: aiohttp.ClientSession,
    pace: Pace,
) -> AnyBackend:
    upstream_model = remote.upstream_model or remote.model
    base_url = remote.url.rstrip("/") + remote.url_prefix
    api_key = resolve(remote.api_key, base_dir)
    headers = {header.name: _value(header, base_dir) for header in remote.headers}
    extra = _extra(remote.extra_body_json)
    match remote.api:
        case RemoteApi.ANTHROPIC:
            return AnthropicHttpBackend(
                session=session,
                base_url=base_url,
                upstream_model=upstream_model,
                api_key=api_key,
                timeouts=remote.timeouts,
                pace=pace,
                features=features,
                extra=extra,
                headers=headers,
            )
        case RemoteApi.MOEGATE:
            options = remote.gateway
            return MoegateGrpcBackend(
                address=_address(remote, base_dir),
                upstream_model=upstream_model,
                api_key=api_key,
                timeouts=remote.timeouts,
                policy=Policy(
                    local_only=options.local_only,
                    shared_classes=frozenset(options.shared_classes),
                    tell_slo=options.tell_slo,
                ),
                headers=headers,
            )
        case RemoteApi.OPENAI:
            return OpenAIHttpBackend(
                session=session,
                base_url=remote.url,
                prefix=remote.url_prefix,
                upstream_model=upstream_model,
                dialect=Dialect.OPENAI,
                api_key=api_key,
                timeouts=remote.timeouts,
                pace=pace,
                options=BodyOptions(
                    features=features, max_tokens_field=remote.max_tokens_field, extra=extra
                ),
                headers=headers,
            )


def _unsupported(remote: RemoteConfig, features: frozenset[Feature]) -> Unsupported:
    most = remote.max_output_tokens

    def fields(generation: Generation) -> tuple[str, ...]:
        if remote.api is RemoteApi.ANTHROPIC:
            found = anthropic_body.unsupported_fields(generation, features)
        else:
            found = unsupported(generation, features)
        if remote.api is RemoteApi.MOEGATE and generation.hops >= remote.gateway.max_hops:
            found = (*found, HOPS_FIELD)
        if most is not None and generation.max_output_tokens > most:
            found = (*found, "max_output_tokens")
        return found

    return fields


def _address(remote: RemoteConfig, base_dir: Path) -> Address:
    """Checked by `config_checks_gateway.py`."""
    scheme, _, target = remote.url.rstrip("/").partition("://")
    if scheme == "grpc":
        return Address(target=target)
    options = remote.gateway
    ca, key, cert = (
        None if file is None else (base_dir / file).read_bytes()
        for file in (options.ca, options.key, options.cert)
    )
    return Address(target=target, tls=(ca, key, cert))


def _value(header: HeaderConfig, base_dir: Path) -> str:
    return resolve(header.secret, base_dir) or header.value or ""


def _extra(text: str | None) -> Mapping[str, msgspec.Raw]:
    """Checked by `config_checks.py`. Copies: a Raw would else keep the whole text alive."""
    if text is None:
        return {}
    fields = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    return {name: value.copy() for name, value in fields.items()}
