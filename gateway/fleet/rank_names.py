"""How placements of a replica are called."""

from __future__ import annotations


def rank_names(place: str, pinned_ranks: int) -> tuple[str, ...]:
    """Placements of the replica of that name: itself, or its pinned ranks in their order."""
    return tuple(f"{place}/{rank}" for rank in range(pinned_ranks)) or (place,)


def replica_of(placement: str) -> str:
    """The replica that a placement is, or is a pinned rank of."""
    return "/".join(placement.split("/")[:2])
