"""View of the fleet for the pipeline and the services. Frozen: each change replaces it whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from scheduler.contract import PlacementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementView:
    """One placement.

    Attributes:
        pool: name of its pool; empty for a remote.
        replica: its replica within the pool, including the rank if ranks are pinned; empty for a
            remote.
        group: placements that step together; the placement's own name if it steps alone.
        address, upstream_model: server address and the model's name there; empty while a discovered
            pool has no server for this placement.
        serving, reason: whether it is in service, and the reason.
        context_tokens: context length; None: unknown.
        adapters: LoRA adapters that requests may name, loaded there now or not.
        loaded_adapters: those that the server has loaded.
        starts_on_demand: requests wait for its server, which an autoscaler then starts.
    """

    name: str
    kind: PlacementKind
    model: str
    pool: str
    replica: str
    group: str
    address: str
    upstream_model: str
    serving: bool
    reason: str
    context_tokens: int | None
    adapters: frozenset[str] = frozenset()
    loaded_adapters: frozenset[str] = frozenset()
    starts_on_demand: bool = False

    def has(self, model: str) -> bool:
        """Whether the placement has the model, or has loaded the adapter of this name."""
        return model == self.model or model in self.loaded_adapters


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """All placements at one time.

    Attributes:
        token_block_sizes: prefix-cache block sizes in tokens that the engines report, keyed by
            model.
        by_model: placements by model or adapter, whether it is loaded there now or not.
        bases: base model of each adapter.
    """

    placements: tuple[PlacementView, ...] = ()
    token_block_sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    by_name: Mapping[str, PlacementView] = field(default_factory=dict)
    by_model: Mapping[str, tuple[PlacementView, ...]] = field(default_factory=dict)
    bases: Mapping[str, str] = field(default_factory=dict)

    @property
    def serves(self) -> bool:
        """Whether requests are taken: a placement is in service, or is started for them."""
        return any(each.serving or each.starts_on_demand for each in self.placements)

    def of_model(self, model: str) -> tuple[PlacementView, ...]:
        """Returns the placements of a model or adapter, in service or not; empty: unknown model."""
        return self.by_model.get(model, ())

    def base_model(self, model: str) -> str:
        """Returns the base model of an adapter; any other name is its own."""
        return self.bases.get(model, model)

    def members(self, name: str) -> tuple[PlacementView, ...]:
        """Returns the placement with this name, or the pinned ranks of the replica with this
        name."""
        return tuple(p for p in self.placements if name in (p.name, p.group))


def fleet_view(
    placements: tuple[PlacementView, ...],
    token_block_sizes: Mapping[str, tuple[int, ...]],
    base_model: Callable[[str], str] = lambda model: model,
) -> FleetView:
    """Builds a view of the placements. `base_model`: the base model of an adapter."""
    by_model: dict[str, tuple[PlacementView, ...]] = {}
    bases: dict[str, str] = {}
    for placement in placements:
        adapters = [a for a in sorted(placement.adapters) if base_model(a) == placement.model]
        bases |= dict.fromkeys(adapters, placement.model)
        for model in (placement.model, *adapters):
            by_model[model] = (*by_model.get(model, ()), placement)
    return FleetView(
        placements=placements,
        token_block_sizes=token_block_sizes,
        by_name={placement.name: placement for placement in placements},
        by_model=by_model,
        bases=bases,
    )
