"""Bounds in the configuration: of the gateway, and of one key."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from gateway.config.values import Count, Seconds


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of every part: frozen, unknown fields refused."""


class LimitsConfig(_Part, frozen=True, kw_only=True):
    """Bounds of the gateway."""

    queue_requests: Count = 1024
    """Most requests in the queue of one model."""
    queue_bytes: Count = 256 * 1024 * 1024
    """Most bytes of requests in the queue of one model."""
    message_bytes: Annotated[int, Meta(ge=65_536, le=1 << 30)] = 16 * 1024 * 1024
    """Largest RPC message that is received."""
    unread_stream_bytes: Count = 4 * 1024 * 1024
    """Most output of one stream that is kept while its client does not read. Beyond it the server
    that generates has to wait."""
    unread_tenant_bytes: Count = 64 * 1024 * 1024
    """The same, for all streams of one tenant."""
    unread_bytes: Count = 256 * 1024 * 1024
    """The same, for all streams."""
    default_max_output_tokens: Count = 4096
    """Output limit of a request that sets none."""
    default_deadline_s: Seconds = 600.0
    """Deadline of a request that sets none."""
    attempts: Annotated[int, Meta(ge=1, le=10)] = 3
    """Most placements that are tried for one request."""


class KeyLimitsConfig(_Part, frozen=True, kw_only=True):
    """Limits of one key; absent: none."""

    requests_per_minute: Count | None = None
    """Requests per minute."""
    tokens_per_minute: Count | None = None
    """Prompt and output tokens per minute."""
    concurrent_requests: Count | None = None
    """Requests at once."""
