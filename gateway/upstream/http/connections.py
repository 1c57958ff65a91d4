"""The session of all upstream calls, and fresh connections where a pooled one turned out stale.

A server may close an idle connection in the moment in which a request is sent on it. Such a
request was lost, not refused: it is sent once more, on a new connection to an address that is
looked up anew. That is safe only while nothing of an answer has come, and soon after the sending: a
connection that breaks later may have broken because of the request.
"""

from __future__ import annotations

from types import SimpleNamespace

import aiohttp

UPSTREAM_KEEPALIVE_S = 4.0
"""Seconds before an idle upstream connection is closed. vLLM's HTTP server closes it after 5 s, and
a request sent into a closing connection is lost."""
STALE_S = 1.0
"""Longest time from the sending of a request to the break of a connection that counts as stale."""


class Reuse:
    """Whether the connection of a request came from the pool; passed as its trace context."""

    __slots__ = ("reused",)

    def __init__(self) -> None:
        self.reused = False


async def _record_reuse(
    session: aiohttp.ClientSession,
    context: SimpleNamespace,
    params: aiohttp.TraceConnectionReuseconnParams,
) -> None:
    reuse = context.trace_request_ctx
    if isinstance(reuse, Reuse):
        reuse.reused = True


def upstream_session() -> aiohttp.ClientSession:
    """Opens the HTTP session of all upstream calls. Its connection count is unlimited, because the
    scheduler bounds concurrency. Nothing is inflated: no call asks for a compressed answer."""
    traces = aiohttp.TraceConfig()
    traces.on_connection_reuseconn.append(_record_reuse)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=UPSTREAM_KEEPALIVE_S)
    # No cookie jar: engines set no relevant cookies, and every request would pay for the lookup.
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        trace_configs=[traces],
    )


def unpooled_session() -> aiohttp.ClientSession:
    """A session for one request, on a new connection that is not kept. After the headers have come
    it is detached: the response owns the connection then."""
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
    )


def is_stale(error: aiohttp.ClientError, reuse: Reuse, waited_s: float) -> bool:
    """Whether the connection of a request was stale. `waited_s`: since the request was sent."""
    if not reuse.reused or waited_s > STALE_S:
        return False
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return isinstance(error.message, str)  # else it is the answer that had begun
    return isinstance(error, aiohttp.ClientOSError) and not isinstance(
        error, aiohttp.ClientConnectorError
    )
