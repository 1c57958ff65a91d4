"""Builds the engine hints of a request: cache salt, priority and trace context."""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Sequence

from gateway.domain.generation import EngineHints
from scheduler.contract import Request, SloClass

CLASS_PRIORITY = {SloClass.INTERACTIVE: 0, SloClass.STANDARD: 100, SloClass.BATCH: 200}
"""vLLM priority per service class. vLLM runs lower numbers first (--scheduling-policy priority). A
request's own priority, -10 to 10, never bridges the gap between classes."""
MAX_TRACESTATE_CHARS = 512
"""Minimum length of tracestate that W3C trace context asks every system to propagate."""
MOST_TENANTS = 1024
"""Number of tenants whose salt is cached. Other salts are computed for each request."""
_SALT_KEY = b"moegate prefix cache"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def engine_hints(
    request: Request, trace_headers: tuple[tuple[str, str], ...], *, isolated: bool
) -> EngineHints:
    """Builds the hints. `isolated`: the tenant's requests share a prefix cache only with each
    other. Every gateway computes the same salt for a tenant."""
    return EngineHints(
        cache_salt=_cache_salt(request.tenant) if isolated else "",
        priority=CLASS_PRIORITY[request.slo.slo_class] - request.priority,
        trace_headers=trace_headers,
    )


@functools.lru_cache(MOST_TENANTS)
def _cache_salt(tenant: str) -> str:
    return hmac.new(_SALT_KEY, tenant.encode(), hashlib.sha256).hexdigest()[:32]


def trace_headers(metadata: Sequence[tuple[str, str | bytes]]) -> tuple[tuple[str, str], ...]:
    """Returns the caller's trace context headers. Invalid headers are dropped."""
    parent = state = ""
    for name, value in metadata:
        if name == "traceparent" and isinstance(value, str):
            parent = value
        elif name == "tracestate" and isinstance(value, str):
            state = value
    if not parent or _TRACEPARENT.match(parent) is None:
        return ()
    if state and len(state) <= MAX_TRACESTATE_CHARS and state.isascii() and state.isprintable():
        return (("traceparent", parent), ("tracestate", state))
    return (("traceparent", parent),)
