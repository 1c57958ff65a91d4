"""Questions of a front to its scheduler, which wait while there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from gateway.link.away import AwayLimits
from gateway.link.wire.connection import Connection, LinkLost
from scheduler.port import SchedulerAway


class Questions:
    """Asks whichever scheduler the front is joined to."""

    def __init__(
        self,
        joined: asyncio.Event,
        connection: Callable[[], Connection | None],
        limits: Callable[[], AwayLimits],
    ) -> None:
        """`joined`: set while there is a scheduler. `connection`: the present one."""
        self._joined = joined
        self._connection = connection
        self._limits = limits
        self._waiting = 0

    async def ask(self, name: str, argument: Any, type_: Any) -> Any:
        """Asks the scheduler. While there is none, waits for one, and asks again what a lost one
        has not answered. Raises SchedulerAway."""
        limits = self._limits()
        if self._waiting >= limits.calls:
            raise SchedulerAway
        self._waiting += 1
        try:
            async with asyncio.timeout(limits.call_s):
                while True:
                    await self._joined.wait()
                    connection = self._connection()
                    assert connection is not None
                    try:
                        return await connection.call(name, argument, type_)
                    except LinkLost:
                        await asyncio.sleep(0)  # until its loss was handled
        except TimeoutError:
            raise SchedulerAway from None
        finally:
            self._waiting -= 1
