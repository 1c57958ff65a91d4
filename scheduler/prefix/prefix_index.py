"""Prompt prefixes expected in the cache of each placement, from the requests that were sent there.

A prompt is a sequence of chained block hashes, so a hash identifies its block and all blocks before
it. For each placement the index keeps the blocks that were sent there, at most as many as its KV
cache holds; the least recently used ones are dropped. The expectation is corrected by the cached
tokens that engines report (`PlacementState.cache_trust`). For prompts given as token ids, engines
that publish cache events give exact figures instead (`engine_caches.py`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from scheduler.output_length import Floats
from scheduler.prefix.holders import Holders

MOST_BLOCKS = 262_144
"""Blocks remembered over all placements of a model: some 40 MB."""
FIRST_BLOCKS = 1024
"""Bound for a placement whose KV capacity is unknown."""


class PrefixIndex:
    """Blocks by holder. Placements are indices below `placements`."""

    def __init__(self, placements: int) -> None:
        self._holders = Holders()
        self._blocks: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(placements)]
        self._bits = list(range(placements))
        """Number of each placement's bit among the holders."""
        self._width = placements
        self._order: npt.NDArray[np.intp] | None = None
        """`_bits` as an array; None while bits are in the order of the placements."""
        self._limit = max(1, MOST_BLOCKS // max(1, placements))

    def __len__(self) -> int:
        return len(self._holders)

    def is_held(self, blocks: Sequence[int]) -> bool:
        """Whether any placement, a remote too, holds the first block."""
        return bool(blocks) and blocks[0] in self._holders

    def hit_blocks(self, blocks: Sequence[int]) -> Floats:
        """Leading blocks that each placement holds, shape (placements,)."""
        found = self._holders.leading(blocks, self._width)
        return found if self._order is None else found[self._order]

    def add(self, placement: int, blocks: Sequence[int], capacity_blocks: int | None) -> None:
        """Records that these blocks are in the placement's cache now. The last blocks of a prompt
        are dropped first."""
        held, bit = self._blocks[placement], 1 << self._bits[placement]
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
        """Drops all blocks of a placement, which has lost its cache."""
        held, bit = self._blocks[placement], 1 << self._bits[placement]
        for block in held:
            self._holders.drop(block, bit)
        held.clear()

    def reindex(self, previous: Sequence[int | None]) -> None:
        """Changes the indices after placements were added, removed or reordered.

        `previous` has the former index of each placement, None for a new one. The bits of
        placements that stay do not change.
        """
        for placement in set(range(len(self._blocks))).difference(previous):
            self.forget(placement)
        used = {self._bits[before] for before in previous if before is not None}
        free = (bit for bit in range(len(previous)) if bit not in used)
        self._bits = [next(free) if i is None else self._bits[i] for i in previous]
        self._blocks = [OrderedDict() if i is None else self._blocks[i] for i in previous]
        self._width = max(self._bits, default=-1) + 1
        in_order = self._bits == list(range(len(previous)))
        self._order = None if in_order else np.array(self._bits, dtype=np.intp)
        self._limit = max(1, MOST_BLOCKS // max(1, len(previous)))
        for held, number in zip(self._blocks, self._bits, strict=True):
            while len(held) > self._limit:
                self._holders.drop(held.popitem(last=False)[0], 1 << number)
