"""What own engines are told beside a request: whose cache it may use, its rank, its trace."""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Sequence

from gateway.domain.generation import EngineHints
from scheduler.contract import Request, SloClass

CLASS_PRIORITY = {SloClass.INTERACTIVE: 0, SloClass.STANDARD: 100, SloClass.BATCH: 200}
"""vLLM runs lower numbers first (--scheduling-policy priority); a request's own rank, -10 to 10,
never bridges the gap between classes."""
MAX_TRACESTATE_CHARS = 512
"""What the W3C recommendation on trace context asks to be passed on at least."""
MOST_TENANTS = 1024
"""Whose salt is remembered; that of others is computed for each request."""
_SALT_KEY = b"moegate prefix cache"
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")


def engine_hints(
    request: Request, trace_headers: tuple[tuple[str, str], ...], *, isolated: bool
) -> EngineHints:
    """`isolated`: the tenant has a prefix cache of its own, on every gateway the same one."""
    return EngineHints(
        cache_salt=_cache_salt(request.tenant) if isolated else "",
        priority=CLASS_PRIORITY[request.slo.slo_class] - request.priority,
        trace_headers=trace_headers,
    )


@functools.lru_cache(MOST_TENANTS)
def _cache_salt(tenant: str) -> str:
    return hmac.new(_SALT_KEY, tenant.encode(), hashlib.sha256).hexdigest()[:32]


def trace_headers(metadata: Sequence[tuple[str, str | bytes]]) -> tuple[tuple[str, str], ...]:
    """The caller's trace, if it is one (W3C trace context); anything else is left out."""
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
