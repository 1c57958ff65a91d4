"""The watch of the fleet: one stream of the gateway for all operators that look."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import grpc
from google.protobuf.duration_pb2 import Duration

from gateway.doors.console.calls import Calls
from gateway.doors.console.problems import Problem, of_rpc
from gateway.doors.console.visitor import Visitor
from moegate.v1 import usage_pb2

INTERVAL_S = 2
"""Seconds between two states of the fleet."""
UNWATCHED_S = 15.0
"""Time without a viewer after which the stream is closed."""
FIRST_S = 10.0
"""Longest wait for the first state."""
HISTORY = 150
"""States that are kept for the small charts: five minutes."""


@dataclass(frozen=True, slots=True)
class FleetState:
    """The newest state of the fleet, and those before it, oldest first."""

    now: usage_pb2.WatchFleetResponse
    history: tuple[usage_pb2.WatchFleetResponse, ...]


class FleetWatch:
    """Watches the fleet while somebody looks, with the credential of the one who came first.

    A stream that ends, because the gateway drains or the key was revoked, is opened again with the
    credential of the next viewer. Only operators may be let here: the pages check the role.
    """

    def __init__(self, calls: Calls, clock: Callable[[], float]) -> None:
        self._calls = calls
        self._clock = clock
        self._history: deque[usage_pb2.WatchFleetResponse] = deque(maxlen=HISTORY)
        self._seen_s = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._came: asyncio.Future[None] | None = None

    async def state(self, visitor: Visitor) -> FleetState:
        """Returns the newest state. Raises Problem."""
        self._seen_s = self._clock()
        if self._watching is None or self._watching.done():
            self._history.clear()
            self._came = asyncio.get_running_loop().create_future()
            self._watching = asyncio.create_task(
                self._watch(visitor, self._came), name="moegate-console-fleet"
            )
        if not self._history:
            assert self._came is not None
            try:
                async with asyncio.timeout(FIRST_S):
                    await asyncio.shield(self._came)
            except TimeoutError:
                text = f"The state of the fleet has not come in {FIRST_S:g} s."
                raise Problem(504, "The answer took too long", text) from None
        return FleetState(self._history[-1], tuple(self._history))

    async def close(self) -> None:
        """Ends the stream."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def _watch(self, visitor: Visitor, came: asyncio.Future[None]) -> None:
        request = usage_pb2.WatchFleetRequest(interval=Duration(seconds=INTERVAL_S))
        call = self._calls.usage.WatchFleet(request, metadata=visitor.metadata)
        try:
            async for message in call:
                self._history.append(message)
                if not came.done():
                    came.set_result(None)
                if self._clock() - self._seen_s > UNWATCHED_S:
                    return
        except grpc.aio.AioRpcError as error:
            _fail(came, of_rpc(error))
        finally:
            text = "The watch of the fleet has ended: the gateway stops, or the key is revoked."
            _fail(came, Problem(503, "The gateway cannot answer now", text))
            call.cancel()


def _fail(came: asyncio.Future[None], problem: Problem) -> None:
    """Tells those that wait for the first state, unless it has come."""
    if not came.done():
        came.set_exception(problem)
        came.exception()  # it is retrieved also if nobody waits any more
