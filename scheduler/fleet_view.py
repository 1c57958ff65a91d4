"""The fleet as those who run requests see it: frozen, replaced whole when something changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from scheduler.contract import PlacementKind


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementView:
    """One placement.

    Attributes:
        pool: name of its pool; empty for a remote.
        replica: its replica within the pool, with the rank where ranks are pinned; empty for a
            remote.
        group: what steps together; the placement's own name where it is alone.
        address, upstream_model: the server behind it and the model's name there; empty while a
            place of a discovered pool has no server.
        serving, reason: whether it is in service, and why it is or is not.
        context_tokens: None while unknown.
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
    """Every placement at one time. `token_block_sizes`: tokens of a prefix-cache block, each size
    that a model's engines report, by model."""

    placements: tuple[PlacementView, ...] = ()
    token_block_sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    by_name: Mapping[str, PlacementView] = field(default_factory=dict)
    by_model: Mapping[str, tuple[PlacementView, ...]] = field(default_factory=dict)

    @property
    def serves(self) -> bool:
        """Whether any placement is in service."""
        return any(placement.serving for placement in self.placements)

    def of_model(self, model: str) -> tuple[PlacementView, ...]:
        """Placements of a model, in service or not; empty: the model is not served here."""
        return self.by_model.get(model, ())

    def members(self, name: str) -> tuple[PlacementView, ...]:
        """The placement of that name, or the pinned ranks of the replica of that name."""
        return tuple(p for p in self.placements if name in (p.name, p.group))


def fleet_view(
    placements: tuple[PlacementView, ...], token_block_sizes: Mapping[str, tuple[int, ...]]
) -> FleetView:
    """A view of these placements."""
    by_model: dict[str, tuple[PlacementView, ...]] = {}
    for placement in placements:
        by_model[placement.model] = (*by_model.get(placement.model, ()), placement)
    return FleetView(
        placements=placements,
        token_block_sizes=token_block_sizes,
        by_name={placement.name: placement for placement in placements},
        by_model=by_model,
    )
