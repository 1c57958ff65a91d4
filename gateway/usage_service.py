"""UsageService: how the fleet stands, to whoever may know it."""

from __future__ import annotations

from collections.abc import Callable

import grpc

from gateway import errors
from gateway.answering import Context, answering, caller_of
from gateway.config import KeyRole
from gateway.fleet_watch import Rates, watch_fleet
from gateway.live import Live
from gateway.throughput import Throughput
from moegate.v1 import usage_pb2, usage_pb2_grpc


class UsageService(usage_pb2_grpc.UsageServiceServicer):
    """Spend and fleet."""

    def __init__(
        self, live: Live, clock: Callable[[], float], throughput: Throughput, rates: Rates
    ) -> None:
        self._live = live
        self._clock = clock
        self._throughput = throughput
        self._rates = rates

    async def WatchFleet(  # type: ignore[override]  # the stub knows generators only
        self, request: usage_pb2.WatchFleetRequest, context: Context
    ) -> None:
        """The fleet, again each interval; for operators."""
        async with answering(context):
            caller = caller_of(self._live, context)
            if caller.role is not KeyRole.OPERATOR:
                raise errors.denied(f"key {caller.key_id} is no operator's, but {caller.role}'s")
            fleet = watch_fleet(
                request,
                live=self._live,
                throughput=self._throughput,
                clock=self._clock,
                rates=self._rates,
            )
            async for message in fleet:
                await context.write(message)

    async def GetSpend(
        self, request: usage_pb2.GetSpendRequest, context: Context
    ) -> usage_pb2.GetSpendResponse:
        """Not served yet."""
        async with answering(context):
            raise errors.RpcError(grpc.StatusCode.UNIMPLEMENTED, "GetSpend is not served yet")

    async def GetPoolCost(
        self, request: usage_pb2.GetPoolCostRequest, context: Context
    ) -> usage_pb2.GetPoolCostResponse:
        """Not served yet."""
        async with answering(context):
            raise errors.RpcError(grpc.StatusCode.UNIMPLEMENTED, "GetPoolCost is not served yet")
