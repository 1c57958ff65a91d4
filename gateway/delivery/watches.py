"""Streams that a drain ends instead of waiting for them: health watches, fleet watches, exports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class ShuttingDown(Exception):
    """The gateway drains: the stream ends now."""


class Watches:
    """The open watches and exports."""

    def __init__(self) -> None:
        self._open: set[asyncio.Timeout] = set()
        self._ended = False

    @property
    def open_streams(self) -> int:
        """Number of open watches and exports."""
        return len(self._open)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Runs a stream in this context. Raises ShuttingDown as soon as `end` is called."""
        if self._ended:
            raise ShuttingDown
        try:
            async with asyncio.timeout(None) as timeout:
                self._open.add(timeout)
                try:
                    yield
                finally:
                    self._open.discard(timeout)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise ShuttingDown from None

    def end(self) -> None:
        """Ends all open streams, and every later one at once."""
        self._ended = True
        for timeout in self._open:
            timeout.reschedule(asyncio.get_running_loop().time())
