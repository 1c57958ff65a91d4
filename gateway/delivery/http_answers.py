"""Sends whole answers over HTTP."""

from __future__ import annotations

from aiohttp import web

from gateway.delivery.unread import UnreadOutput, write_within


async def send_answer(
    request: web.BaseRequest, response: web.StreamResponse, limit_s: float
) -> None:
    """Sends an answer, unless its client does not read it within `limit_s`: then its connection is
    closed."""

    async def sending() -> None:
        await response.prepare(request)
        await response.write_eof()

    try:
        await write_within(sending(), limit_s)
    except UnreadOutput:
        if request.transport is not None:
            request.transport.abort()
