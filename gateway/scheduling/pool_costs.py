"""Metered cost of a pool, compared with the price of the same tokens at remotes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from gateway.scheduling.metering import Metering
from scheduler.contract import PlacementKind
from scheduler.metering.meter import PoolCost
from scheduler.metering.report import KindRates
from scheduler.metering.totals import SECOND_NS
from scheduler.placement_state import Placement
from scheduler.port import PoolCostReport, RemoteCost
from scheduler.pricing import MILLION, TokenCounts

RATES_NS = 3600 * SECOND_NS
"""Window of the displayed cost rates."""
KEPT_S = 5.0
"""Seconds for which computed rates are reused. Every watcher and every scrape asks for them."""


class PoolCosts:
    """Pool costs of one meter."""

    def __init__(self, metering: Metering, clock: Callable[[], float]) -> None:
        self._metering = metering
        self._clock = clock
        self._computed_s = float("-inf")
        self._rates: dict[str, tuple[KindRates, ...]] = {}

    def report(
        self, pool: str, window_ns: int, model: str | None, placements: Iterable[Placement]
    ) -> PoolCostReport:
        """Returns the costs of a pool that serves `model`, over a window of `window_ns` that ends
        now."""
        meter = self._metering.meter
        cost = meter.cost(pool, window_ns, self._metering.now_ns)
        remotes = () if cost is None else tuple(_remotes(cost, model, placements))
        return PoolCostReport(cost=cost, remotes=remotes, pools=tuple(meter.pools))

    def rates(self) -> Mapping[str, tuple[KindRates, ...]]:
        """Returns the cost rates of every pool over the last hour, up to KEPT_S seconds old."""
        now_s = self._clock()
        if now_s - self._computed_s >= KEPT_S:
            meter, now_ns = self._metering.meter, self._metering.now_ns
            found = {name: meter.cost(name, RATES_NS, now_ns) for name in meter.pools}
            self._rates = {name: cost.rates for name, cost in found.items() if cost is not None}
            self._computed_s = now_s
        return self._rates


def _remotes(
    cost: PoolCost, model: str | None, placements: Iterable[Placement]
) -> Iterator[RemoteCost]:
    """Prices the window's tokens at the remotes' current rates.

    A price tier depends on the prompt length of one request. The mean length represents all
    requests.
    """
    tokens = cost.uncached_tokens + cost.cached_tokens + cost.output_tokens
    counts = TokenCounts(
        uncached_input_tokens=max(0, cost.uncached_tokens),
        cached_input_tokens=max(0, cost.cached_tokens),
        output_tokens=max(0, cost.output_tokens),
    )
    for facts in placements:
        if facts.kind is not PlacementKind.REMOTE or facts.model != model or facts.rates is None:
            continue
        tier = facts.rates.tier(counts.input_tokens // max(1, cost.requests))
        amount = sum(tier.parts(counts)) // MILLION
        yield RemoteCost(
            remote=facts.name,
            price_row_id=facts.rates.row_id,
            nano_usd=amount,
            nano_usd_per_mtok=amount * MILLION // tokens if tokens > 0 else None,
        )
