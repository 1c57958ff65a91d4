"""How a client reaches the gateway: address, key, TLS, retries."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass

import grpc

KEY_VARIABLE = "MOEGATE_API_KEY"
DEFAULT_TARGET = "127.0.0.1:50051"
MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Of an answer: many choices with log-probabilities are large."""
_KEEPALIVE_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """A call over TLS: all are PEM. `ca`: certificates to trust; None: the system's. `cert` and
    `cert_key`: the client's own, for mTLS."""

    ca: bytes | None = None
    cert: bytes | None = None
    cert_key: bytes | None = None

    def __post_init__(self) -> None:
        if (self.cert is None) != (self.cert_key is None):
            raise ValueError("Tls: cert and cert_key go together")

    def credentials(self) -> grpc.ChannelCredentials:
        """For the channel."""
        return grpc.ssl_channel_credentials(self.ca, self.cert_key, self.cert)


def call_metadata(key: str | None) -> tuple[tuple[str, str], ...]:
    """The metadata that carries the key. None: the key of the environment variable, if any.
    Raises ValueError."""
    key = os.environ.get(KEY_VARIABLE, "") if key is None else key
    if not key.isascii() or (key and not key.isprintable()):
        raise ValueError("key: it holds characters that no key has: is it whole, on one line?")
    return (("authorization", f"Bearer {key}"),) if key else ()


def channel_options(attempts: int) -> list[tuple[str, int | str]]:
    """Options of the channel.

    gRPC repeats a call that the gateway refused before any output, at most `attempts` times in
    all, after the time that the gateway asks for (`grpc-retry-pushback-ms`).
    """
    if not 1 <= attempts <= 5:
        raise ValueError(f"attempts: {attempts} is not from 1 to 5, which gRPC allows")
    options: list[tuple[str, int | str]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.keepalive_time_ms", _KEEPALIVE_MS),
    ]
    if attempts == 1:
        return [*options, ("grpc.enable_retries", 0)]
    policy = {
        "maxAttempts": attempts,
        "initialBackoff": "0.5s",
        "maxBackoff": "10s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE", "RESOURCE_EXHAUSTED"],
    }
    services = [{"service": f"moegate.v1.{name}"} for name in ("InferenceService", "UsageService")]
    config = {
        "methodConfig": [{"name": services, "retryPolicy": policy}],
        "retryThrottling": {"maxTokens": 100, "tokenRatio": 0.1},
    }
    return [*options, ("grpc.service_config", json.dumps(config))]
