"""Which placement has which prompt prefix in its cache, as far as the own dispatches tell.

Prompts come as chained block hashes, so a block's hash stands for everything before it too. Each
placement remembers the blocks that were sent there, the least recently used go first, at most as
many as its KV cache holds. What the index expects is corrected by the cached tokens that come back
(`PlacementState.cache_trust`). Engines that publish their caches tell it exactly, of prompts given
as token ids (`engine_caches.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from scheduler.output_length import Floats
from scheduler.prefix.holders import Holders

MOST_BLOCKS = 262_144
"""Blocks remembered over all placements of a model: some 40 MB."""
FIRST_BLOCKS = 1024
"""Of a placement whose KV capacity is not known yet."""


class PrefixIndex:
    """Blocks by holder. Placements are indices below `placements`."""

    def __init__(self, placements: int) -> None:
        self._holders = Holders()
        self._blocks: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(placements)]
        self._limit = max(1, MOST_BLOCKS // max(1, placements))

    def __len__(self) -> int:
        return len(self._holders)

    def hit_blocks(self, blocks: Sequence[int]) -> Floats:
        """Leading blocks that each placement holds, shape (placements,)."""
        return self._holders.leading(blocks, len(self._blocks))

    def add(self, placement: int, blocks: Sequence[int], capacity_blocks: int | None) -> None:
        """These blocks are computed there now; the deepest ones are forgotten first."""
        held, bit = self._blocks[placement], 1 << placement
        most = FIRST_BLOCKS if capacity_blocks is None else capacity_blocks
        most = max(1, min(most, self._limit))
        for block in reversed(blocks[:most]):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                self._holders.add(block, bit)
        while len(held) > most:
            self._holders.drop(held.popitem(last=False)[0], bit)

    def forget(self, placement: int) -> None:
        """The placement lost its cache."""
        held, bit = self._blocks[placement], 1 << placement
        for block in held:
            self._holders.drop(block, bit)
        held.clear()
