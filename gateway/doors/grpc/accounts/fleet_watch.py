"""WatchFleet: sends the state of the fleet once per interval."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from gateway.doors.grpc import errors
from gateway.doors.grpc.accounts.pool_cost import rate_message
from gateway.doors.grpc.times import seconds_of
from gateway.translation.responses import KIND, duration
from gateway.translation.slo_classes import PROTO_OF
from moegate.v1 import usage_pb2
from scheduler.contract import SloClass
from scheduler.metering.report import KindRates
from scheduler.port import FleetFigures, SchedulerPort
from scheduler.provenance import Provenance
from scheduler.snapshot import PlacementSnapshot, PoolSnapshot, QueueSnapshot

DEFAULT_S = 1.0
SHORTEST_S, LONGEST_S = 0.1, 60.0
SOURCE = {
    Provenance.CONFIGURED: usage_pb2.FIGURE_SOURCE_CONFIGURED,
    Provenance.TOLD: usage_pb2.FIGURE_SOURCE_TOLD,
    Provenance.DERIVED: usage_pb2.FIGURE_SOURCE_DERIVED,
    Provenance.ASSUMED: usage_pb2.FIGURE_SOURCE_ASSUMED,
    Provenance.UNKNOWN: usage_pb2.FIGURE_SOURCE_UNKNOWN,
}


async def watch_fleet(
    request: usage_pb2.WatchFleetRequest, port: SchedulerPort
) -> AsyncIterator[usage_pb2.WatchFleetResponse]:
    """Yields the fleet state until the caller stops iterating. Raises RpcError if the interval is
    out of bounds."""
    interval_s = DEFAULT_S
    if request.HasField("interval"):
        try:
            interval_s = seconds_of(request.interval, SHORTEST_S, LONGEST_S)
        except ValueError as error:
            raise errors.invalid([("interval", str(error))]) from None
    while True:
        figures, rates = await port.figures(), await port.pool_rates()
        yield fleet_message(figures, rates, at_unix_s=time.time())
        await asyncio.sleep(interval_s)


def fleet_message(
    figures: FleetFigures, rates: Mapping[str, Sequence[KindRates]], *, at_unix_s: float
) -> usage_pb2.WatchFleetResponse:
    """Builds one response. `rates`: cost rates by pool name. `at_unix_s`: Unix seconds."""
    at = Timestamp()
    at.FromNanoseconds(round(at_unix_s * 1e9))
    snapshot = figures.snapshot
    return usage_pb2.WatchFleetResponse(
        at=at,
        placements=[
            _placement(p, figures.output_tokens_per_s.get(p.name)) for p in snapshot.placements
        ],
        queued_requests=sum(sum(queue.requests.values()) for queue in snapshot.queues),
        pools=[_pool(pool, rates.get(pool.pool, ())) for pool in snapshot.pools],
        queues=[
            _queue(queue, slo_class)
            for queue in snapshot.queues
            for slo_class, waiting in queue.requests.items()
            if waiting
        ],
        overflowed_requests=figures.overflowed_requests,
    )


def _placement(state: PlacementSnapshot, per_s: float | None) -> usage_pb2.PlacementState:
    message = usage_pb2.PlacementState(
        placement=state.name,
        serving=state.serving,
        running_requests=state.running_requests,
        waiting_requests=state.waiting_in_engine,
        kv_tokens=state.kv_tokens,
        kv_capacity_tokens=state.kv_capacity_tokens,
        kind=KIND[state.kind],
        pool=state.pool,
        model=state.model,
        group=state.group,
        dp_rank=state.dp_rank,
        reason=state.reason,
        external_sequences=state.external_sequences,
        predicted_batch=state.predicted_batch,
        distinct_experts=state.distinct_experts,
        distinct_experts_source=SOURCE[state.distinct_experts_source],
        expert_imbalance=state.expert_imbalance,
        busiest_expert_rank=state.busiest_expert_rank,
        output_tokens_per_second=per_s,
        releasable=state.releasable,
        error_share=state.error_share,
        kv_capacity_source=SOURCE[state.kv_capacity_source],
        context_tokens=state.context_tokens,
        context_source=SOURCE[state.context_source],
        max_sequences=state.max_running,
        max_sequences_source=SOURCE[state.max_running_source],
        gauges_source=SOURCE[state.gauges_source],
        adapters=[
            usage_pb2.AdapterState(name=name, active=name in state.active_adapters)
            for name in state.adapters
        ],
    )
    if state.report_age_s is not None:
        message.report_age.CopyFrom(duration(state.report_age_s))
    if state.decode_step_s is not None:
        message.decode_step.CopyFrom(duration(state.decode_step_s))
    return message


def _pool(state: PoolSnapshot, rates: Sequence[KindRates]) -> usage_pb2.PoolState:
    return usage_pb2.PoolState(
        pool=state.pool,
        model=state.model,
        groups=state.groups,
        groups_serving=state.groups_serving,
        releasable_groups=state.releasable_groups,
        saturation=state.saturation,
        saturated=state.saturated,
        turned_away_share=state.turned_away_share,
        predicted_wait_share=state.predicted_wait_share,
        overflows=state.overflows,
        rates=map(rate_message, rates),
    )


def _queue(queue: QueueSnapshot, slo_class: SloClass) -> usage_pb2.QueueState:
    return usage_pb2.QueueState(
        model=queue.model,
        slo_class=PROTO_OF[slo_class],
        requests=queue.requests[slo_class],
        oldest_wait=duration(queue.oldest_wait_s.get(slo_class, 0.0)),
    )
