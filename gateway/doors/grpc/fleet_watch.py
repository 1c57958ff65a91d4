"""WatchFleet: the fleet of the configuration in force, again each interval."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from gateway.doors.grpc import errors
from gateway.doors.grpc.fleet_messages import fleet_message
from gateway.fleet.throughput import Throughput
from gateway.runtime.active_configuration import ActiveConfiguration
from moegate.v1 import usage_pb2

DEFAULT_S = 1.0
SHORTEST_S, LONGEST_S = 0.1, 60.0

Rates = Callable[[], Mapping[str, Sequence[usage_pb2.PoolRate]]]
"""Cost rates by pool."""


async def watch_fleet(
    request: usage_pb2.WatchFleetRequest,
    *,
    live: ActiveConfiguration,
    throughput: Throughput,
    clock: Callable[[], float],
    rates: Rates,
) -> AsyncIterator[usage_pb2.WatchFleetResponse]:
    """Answers for ever. Raises RpcError for an interval out of bounds."""
    interval_s = DEFAULT_S
    if request.HasField("interval"):
        interval_s = request.interval.ToNanoseconds() / 1e9
        if not SHORTEST_S <= interval_s <= LONGEST_S:
            raise errors.invalid(
                [("interval", f"{interval_s:g} s: give {SHORTEST_S:g} to {LONGEST_S:g} s")]
            )
    while True:
        yield fleet_now(live, throughput, clock(), rates)
        await asyncio.sleep(interval_s)


def fleet_now(
    live: ActiveConfiguration, throughput: Throughput, now_s: float, rates: Rates
) -> usage_pb2.WatchFleetResponse:
    """One answer."""
    now_unix_s = time.time()
    runtime = live.runtime
    states = runtime.scheduler.placements
    throughput.record_reports(state.report for state in states if state.report)
    return fleet_message(
        runtime.snapshot(now_s),
        at_unix_s=now_unix_s,
        tokens_per_s=lambda name: throughput.tokens_per_s(name, now_s=now_s, now_unix_s=now_unix_s),
        rates=rates(),
        overflowed_requests=throughput.overflowed_requests,
    )
