"""Tells the fronts of a scheduler which keys and tenants were made at run time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gateway.auth.run_time import AccessTable
from gateway.fronts.messages import ACCESS
from gateway.link.host import SchedulerHost
from gateway.link.hosted_front import HostedFront
from gateway.link.wire.connection import CallFailed, LinkLost
from gateway.link.wire.messages import LinkError

USE_S = 3.0
"""Longest time for a front to use other keys."""


async def publish_access(
    table: AccessTable, host: SchedulerHost, end: Callable[[HostedFront, str], None]
) -> None:
    """Returns when every front that is connected uses the table. `end`: is given each front that
    does not, with the reason: it must not go on with old keys, which may be revoked. One that
    joins later finds the table in its `Welcome`."""

    async def use(front: HostedFront) -> None:
        try:
            async with asyncio.timeout(USE_S):
                await front.connection.call(ACCESS, table, None)
        except LinkLost:
            pass  # it joins again, and finds the keys in force
        except (CallFailed, LinkError, TimeoutError) as error:
            end(front, f"it could not use other keys: {error or type(error).__name__}")

    await asyncio.gather(*(use(front) for front in host.fronts))
