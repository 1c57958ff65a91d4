"""Joins a front to its scheduler, and joins it again when the connection is broken.

Where the scheduler is, `locate` tells before each try: it may be another one, elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from gateway.link.away import SWEEP_S
from gateway.link.remote_scheduler import RemoteScheduler
from gateway.link.wire.connection import CallFailed, Connection, LinkLost
from gateway.link.wire.messages import LinkError

log = logging.getLogger(__name__)
A = TypeVar("A")

FIRST_WAIT_S = 0.02
LONGEST_WAIT_S = 0.5
"""Bounds of the time between two tries. A local socket that nobody listens on costs nothing."""
JOIN_S = 20.0
"""Longest time of one try."""
LOG_S = 10.0
"""Time between two log lines about a scheduler that cannot be reached."""
FAILURES = (OSError, LinkLost, CallFailed, LinkError, TimeoutError)


class Joining(Generic[A]):
    """Keeps one front joined."""

    def __init__(
        self,
        scheduler: RemoteScheduler,
        number: int,
        locate: Callable[[], Awaitable[A]],
        connect: Callable[[A, Callable[[], Connection]], Awaitable[Connection]],
        clock: Callable[[], float],
    ) -> None:
        """`number`: of the front. `locate`: address of the scheduler; raises OSError if there is
        none. `connect`: see `tls_transport.py`. `clock`: monotonic seconds."""
        self._scheduler = scheduler
        self._number = number
        self._locate = locate
        self._connect = connect
        self._clock = clock

    async def join(self) -> bytes:
        """Tries once. Returns `Welcome.setting`. Raises one of `FAILURES`."""
        async with asyncio.timeout(JOIN_S):
            address = await self._locate()
            connection = self._scheduler.new_connection()
            try:
                await self._connect(address, lambda: connection)
                return await self._scheduler.join(self._number, connection)
            except BaseException:
                connection.close("the scheduler could not be joined")
                raise

    async def keep(self, on_join: Callable[[bytes], None]) -> None:
        """Joins again, whenever the connection is broken, until cancelled. `on_join`: called with
        the setting each time."""
        sweeping = asyncio.create_task(self._sweep())
        try:
            while True:
                await self._scheduler.away.wait()
                on_join(await self._join_again())
        finally:
            sweeping.cancel()

    async def _join_again(self) -> bytes:
        wait_s, lost_s, logged_s = FIRST_WAIT_S, self._clock(), float("-inf")
        while True:
            try:
                setting = await self.join()
            except FAILURES as error:
                if self._clock() - logged_s >= LOG_S:
                    logged_s = self._clock()
                    why = str(error) or type(error).__name__
                    log.warning("the scheduler cannot be reached, streams go on: %s", why)
                # Not all fronts at once.
                await asyncio.sleep(wait_s * random.uniform(0.5, 1.0))
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            else:
                log.info("joined the scheduler again after %.2f s", self._clock() - lost_s)
                return setting

    async def _sweep(self) -> None:
        """Refuses what has waited too long while there is no scheduler."""
        while True:
            await self._scheduler.away.wait()
            self._scheduler.expire()
            await asyncio.sleep(SWEEP_S)
