"""The token rates in force at one moment, by placement: frozen with a request at its admission."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from scheduler.contract import PlacementKind, Request
from scheduler.placement_state import Placement
from scheduler.pricing import TokenCounts, TokenRates


@dataclass(frozen=True, slots=True, kw_only=True)
class RateSnapshot:
    """Immutable token rates; new prices create a new snapshot.

    `rates`: by placement, absent where unknown. `adapter_rates`: of LoRA adapters that have their
    own, by placement and adapter. `unpriced`: placements whose rates are unknown.
    `remotes`: class and name of each remote, by model.
    """

    rates: Mapping[str, TokenRates] = field(default_factory=dict)
    adapter_rates: Mapping[tuple[str, str], TokenRates] = field(default_factory=dict)
    unpriced: frozenset[str] = frozenset()
    remotes: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)

    def covers(self, placement: str) -> bool:
        """Whether the placement was configured when the snapshot was made."""
        return placement in self.rates or placement in self.unpriced

    def of(self, placement: str, model: str, *, batch: bool = False) -> TokenRates | None:
        """Rates of a model or adapter on a placement: its own, else those of the placement; None:
        unknown. `batch`: those of batch work."""
        found = self.adapter_rates.get((placement, model), self.rates.get(placement))
        return None if found is None else found.of_work(batch=batch)

    def cheapest_remote_nano_usd(self, request: Request, counts: TokenCounts) -> int | None:
        """What these tokens cost at the cheapest remote that the request allows and that can
        honour it; None: there is none with a known price."""
        costs = [
            self.rates[name].of_work(batch=request.batch_work).cost_nano_usd(counts)
            for remote_class, name in self.remotes.get(request.model, ())
            if remote_class in request.remote_classes
            and name not in request.unsupported_by
            and name in self.rates
        ]
        return min(costs, default=None)


def rate_snapshot(placements: Iterable[Placement]) -> RateSnapshot:
    """Returns the rate snapshot of a fleet."""
    rates: dict[str, TokenRates] = {}
    adapter_rates: dict[tuple[str, str], TokenRates] = {}
    unpriced: set[str] = set()
    remotes: dict[str, tuple[tuple[str, str], ...]] = {}
    for placement in placements:
        if placement.rates is None:
            unpriced.add(placement.name)
        else:
            rates[placement.name] = placement.rates
        for adapter, found in placement.adapter_rates:
            adapter_rates[placement.name, adapter] = found
        if placement.kind is PlacementKind.REMOTE:
            known = remotes.get(placement.model, ())
            remotes[placement.model] = (*known, (placement.remote_class, placement.name))
    return RateSnapshot(
        rates=rates,
        adapter_rates=adapter_rates,
        unpriced=frozenset(unpriced),
        remotes=remotes,
    )


NO_RATES = RateSnapshot()
"""No rate is known."""
