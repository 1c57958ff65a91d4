"""View of the fleet for the pipeline and the services. Frozen: each change replaces it whole."""

from __future__ import annotations

from collections.abc import Mapping
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


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetView:
    """All placements at one time. `token_block_sizes`: prefix-cache block sizes in tokens that the
    engines report, keyed by model."""

    placements: tuple[PlacementView, ...] = ()
    token_block_sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    by_name: Mapping[str, PlacementView] = field(default_factory=dict)
    by_model: Mapping[str, tuple[PlacementView, ...]] = field(default_factory=dict)

    @property
    def serves(self) -> bool:
        """Whether any placement is in service."""
        return any(placement.serving for placement in self.placements)

    def of_model(self, model: str) -> tuple[PlacementView, ...]:
        """Returns the placements of a model, in service or not; empty: unknown model."""
        return self.by_model.get(model, ())

    def members(self, name: str) -> tuple[PlacementView, ...]:
        """Returns the placement with this name, or the pinned ranks of the replica with this
        name."""
        return tuple(p for p in self.placements if name in (p.name, p.group))


def fleet_view(
    placements: tuple[PlacementView, ...], token_block_sizes: Mapping[str, tuple[int, ...]]
) -> FleetView:
    """Builds a view of the placements."""
    by_model: dict[str, tuple[PlacementView, ...]] = {}
    for placement in placements:
        by_model[placement.model] = (*by_model.get(placement.model, ()), placement)
    return FleetView(
        placements=placements,
        token_block_sizes=token_block_sizes,
        by_name={placement.name: placement for placement in placements},
        by_model=by_model,
    )
