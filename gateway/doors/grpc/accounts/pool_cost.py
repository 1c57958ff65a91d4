"""GetPoolCost: a pool's metered cost, compared with the price of the same tokens at remotes."""

from __future__ import annotations

import asyncio

from gateway.doors.grpc import errors
from gateway.doors.grpc.times import seconds_of
from moegate.v1 import usage_pb2
from scheduler.metering.meter import PoolCost
from scheduler.metering.report import KindRates, LoadPoint
from scheduler.metering.totals import SECOND_NS
from scheduler.port import RemoteCost, SchedulerPort

DEFAULT_NS = 3600 * SECOND_NS
LONGEST_S = 24 * 3600.0
SLICE_POINTS = 128


async def pool_cost(
    port: SchedulerPort, request: usage_pb2.GetPoolCostRequest
) -> usage_pb2.GetPoolCostResponse:
    """Builds the response. Raises RpcError if the pool is unknown or the window is out of
    bounds."""
    window_ns = DEFAULT_NS
    if request.HasField("window"):
        try:
            window_ns = round(seconds_of(request.window, most_s=LONGEST_S) * SECOND_NS)
        except ValueError as error:
            raise errors.invalid([("window", str(error))]) from None
    report = await port.pool_cost(request.pool, window_ns)
    cost = report.cost
    if cost is None:
        known = ", ".join(report.pools) or "none"
        raise errors.invalid([("pool", f"{request.pool[:100]!r}: there is {known}")])
    answer = _message(cost)
    answer.remotes.extend(map(_remote, report.remotes))
    for first in range(0, len(cost.load), SLICE_POINTS):
        answer.load.extend(map(_load, cost.load[first : first + SLICE_POINTS]))
        await asyncio.sleep(0)  # yields: the 1440 points of a day take 3 ms
    return answer


def _message(cost: PoolCost) -> usage_pb2.GetPoolCostResponse:
    answer = usage_pb2.GetPoolCostResponse(
        bill_nano_usd=cost.bill,
        accounts=[
            usage_pb2.PoolAccount(name=name, nano_usd=amount)
            for name, amount in cost.accounts.items()
        ],
        rates=[rate_message(rates) for rates in cost.rates],
        utilisation=cost.utilisation or 0.0,
        charged_nano_usd=cost.charged,
        uncached_input_tokens=cost.uncached_tokens,
        cached_input_tokens=cost.cached_tokens,
        output_tokens=cost.output_tokens,
        warning=cost.warning or "",
    )
    answer.covered.FromNanoseconds(cost.covered_ns)
    answer.unpriced.FromNanoseconds(cost.unpriced_ns)
    if cost.phases is not None:
        answer.prefill_utilisation = cost.phases.prefill
        answer.decode_utilisation = cost.phases.decode
    return answer


def _load(point: LoadPoint) -> usage_pb2.PoolLoad:
    return usage_pb2.PoolLoad(
        tokens_per_s=point.tokens_per_s,
        output_tokens_per_s=point.output_tokens_per_s,
        nano_usd_per_mtok=point.nano_usd_per_mtok,
        utilisation=point.utilisation,
        slo_met=point.slo_met,
    )


def rate_message(rates: KindRates) -> usage_pb2.PoolRate:
    """Converts the cost rates of one token kind, in nano-USD per million tokens."""
    return usage_pb2.PoolRate(
        token_kind=rates.kind.value,
        allocated_nano_usd_per_mtok=rates.allocated,
        saturated_nano_usd_per_mtok=rates.saturated,
        marginal_nano_usd_per_mtok=rates.marginal,
    )


def _remote(cost: RemoteCost) -> usage_pb2.PoolRemote:
    return usage_pb2.PoolRemote(
        remote=cost.remote,
        price_row_id=cost.price_row_id,
        nano_usd=cost.nano_usd,
        nano_usd_per_mtok=cost.nano_usd_per_mtok,
    )
