"""Bounds on writes to a client that does not read.

A write waits while the client's flow-control window is full. Keepalive does not end it, because
such a client still answers pings.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable


class UnreadOutput(Exception):
    """The client did not read for too long, or not before its deadline.

    Attributes:
        limit_s: the bound in seconds that was exceeded; None: the request's deadline passed.
    """

    def __init__(self, limit_s: float | None) -> None:
        super().__init__("the client does not read")
        self.limit_s = limit_s


async def write_within(writing: Awaitable[None], limit_s: float) -> None:
    """Awaits one write to a client. Raises UnreadOutput after `limit_s` seconds."""
    try:
        async with asyncio.timeout(limit_s):
            await writing
    except TimeoutError:
        raise UnreadOutput(limit_s) from None
