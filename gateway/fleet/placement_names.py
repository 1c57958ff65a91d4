"""Names of placements: `pool/replica`, or `pool/replica/rank` where ranks are pinned."""

from __future__ import annotations


def placement_names(replica: str, pinned_ranks: int) -> tuple[str, ...]:
    """Placements of a replica: itself, or its pinned ranks in order. `pinned_ranks` 0: none."""
    return tuple(f"{replica}/{rank}" for rank in range(pinned_ranks)) or (replica,)
