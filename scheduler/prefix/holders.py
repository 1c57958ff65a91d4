"""Holders of prompt blocks, as a bit set for each block.

One walk over a prompt's blocks gives the number of leading blocks of every holder."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scheduler.output_length import Floats


class Holders:
    """Maps a block to its holders; a holder is a bit number. A block's name identifies the block
    and all blocks before it."""

    def __init__(self) -> None:
        self._holders: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def __contains__(self, block: int) -> bool:
        return block in self._holders

    def add(self, block: int, bit: int) -> None:
        """Adds the block for the holder of `bit`, a power of two."""
        self._holders[block] = self._holders.get(block, 0) | bit

    def drop(self, block: int, bit: int) -> None:
        """Removes the block for the holder of `bit`, if it is there."""
        left = self._holders.pop(block, 0) & ~bit
        if left:
            self._holders[block] = left

    def leading(self, blocks: Sequence[int], count: int) -> Floats:
        """Leading blocks that each of `count` holders has, shape (count,)."""
        hits = np.zeros(count)
        holders = self._holders
        alive = -1
        for depth, block in enumerate(blocks):
            still = alive & holders.get(block, 0)
            if still != alive and alive != -1:
                _set(hits, alive & ~still, depth)
            alive = still
            if not alive:
                return hits
        if alive != -1:
            _set(hits, alive, len(blocks))
        return hits


def _set(hits: Floats, bits: int, depth: int) -> None:
    while bits:
        lowest = bits & -bits
        hits[lowest.bit_length() - 1] = depth
        bits ^= lowest
