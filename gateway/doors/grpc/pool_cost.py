"""GetPoolCost: the meter's account of a pool as a message, beside what remotes would have asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from gateway.accounting.metering import Metering
from gateway.doors.grpc import errors
from gateway.runtime.active_configuration import ActiveConfiguration
from moegate.v1 import usage_pb2
from scheduler.contract import PlacementKind
from scheduler.metering.meter import PoolCost
from scheduler.metering.report import KindRates, LoadPoint
from scheduler.metering.totals import SECOND_NS
from scheduler.pricing import MILLION, TokenCounts

DEFAULT_NS = 3600 * SECOND_NS
LONGEST_NS = 24 * DEFAULT_NS
RATES_NS = 3600 * SECOND_NS
"""Window of the rates that WatchFleet shows."""
KEPT_S = 5.0
SLICE_POINTS = 128


async def pool_cost(
    live: ActiveConfiguration, request: usage_pb2.GetPoolCostRequest
) -> usage_pb2.GetPoolCostResponse:
    """The answer. Raises RpcError for a pool or window that there is not."""
    window_ns = DEFAULT_NS
    if request.HasField("window"):
        window_ns = request.window.ToNanoseconds()
        if not 0 < window_ns <= LONGEST_NS:
            text = f"{window_ns / SECOND_NS:g} s: give a window above 0, of 24 h at most"
            raise errors.invalid([("window", text)])
    metering = live.metering
    cost = metering.meter.cost(request.pool, window_ns, metering.now_ns)
    if cost is None:
        known = ", ".join(metering.meter.pools) or "none"
        raise errors.invalid([("pool", f"{request.pool!r}: there is {known}")])
    answer = _message(cost)
    answer.remotes.extend(_remotes(live, cost))
    for first in range(0, len(cost.load), SLICE_POINTS):
        answer.load.extend(map(_load, cost.load[first : first + SLICE_POINTS]))
        await asyncio.sleep(0)  # a day has 1440 points: 3 ms in one piece
    return answer


class KeptRates:
    """The rates, made anew every few seconds at most, for every watcher and scraper asks."""

    def __init__(self, metering: Metering, clock: Callable[[], float]) -> None:
        self._metering = metering
        self._clock = clock
        self._made_s = float("-inf")
        self._rates: dict[str, list[usage_pb2.PoolRate]] = {}

    def __call__(self) -> dict[str, list[usage_pb2.PoolRate]]:
        """By pool."""
        now_s = self._clock()
        if now_s - self._made_s >= KEPT_S:
            self._made_s, self._rates = now_s, pool_rates(self._metering)
        return self._rates


def pool_rates(metering: Metering) -> dict[str, list[usage_pb2.PoolRate]]:
    """Cost rates of every pool over the last hour."""
    meter, now_ns = metering.meter, metering.now_ns
    found = {name: meter.cost(name, RATES_NS, now_ns) for name in meter.pools}
    return {
        name: [_rate(rates) for rates in cost.rates]
        for name, cost in found.items()
        if cost is not None
    }


def _message(cost: PoolCost) -> usage_pb2.GetPoolCostResponse:
    answer = usage_pb2.GetPoolCostResponse(
        bill_nano_usd=cost.bill,
        accounts=[
            usage_pb2.PoolAccount(name=name, nano_usd=amount)
            for name, amount in cost.accounts.items()
        ],
        rates=[_rate(rates) for rates in cost.rates],
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


def _rate(rates: KindRates) -> usage_pb2.PoolRate:
    return usage_pb2.PoolRate(
        token_kind=rates.kind.value,
        allocated_nano_usd_per_mtok=rates.allocated,
        saturated_nano_usd_per_mtok=rates.saturated,
        marginal_nano_usd_per_mtok=rates.marginal,
    )


def _remotes(live: ActiveConfiguration, cost: PoolCost) -> Iterator[usage_pb2.PoolRemote]:
    """The window's tokens at the prices of now, a request of mean size at a time.

    Tiers go by the length of one request: the mean's stands for all.
    """
    runtime = live.runtime
    model = next((pool.model for pool in runtime.config.pools if pool.name == cost.pool), None)
    tokens = cost.uncached_tokens + cost.cached_tokens + cost.output_tokens
    counts = TokenCounts(
        uncached_input_tokens=max(0, cost.uncached_tokens),
        cached_input_tokens=max(0, cost.cached_tokens),
        output_tokens=max(0, cost.output_tokens),
    )
    for state in runtime.scheduler.placements:
        facts = state.facts
        if facts.kind is not PlacementKind.REMOTE or facts.model != model or facts.rates is None:
            continue
        tier = facts.rates.tier(counts.input_tokens // max(1, cost.requests))
        amount = sum(tier.parts(counts)) // MILLION
        yield usage_pb2.PoolRemote(
            remote=facts.name,
            price_row_id=facts.rates.row_id,
            nano_usd=amount,
            nano_usd_per_mtok=amount * MILLION // tokens if tokens > 0 else None,
        )
