"""Contents of the engines' prefix caches of one model, from the engines' cache events.

For a prompt given as token ids the result is exact: the number of leading blocks that a cache
holds. Each rank of a data-parallel replica has its own cache; if requests are not pinned to a rank,
the expectation for the replica is the mean of its ranks. If the subscription began late or lost
events, only part of a cache is known, and the result is a lower bound. An engine that computes a
block twice at once holds two copies and sends events for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scheduler.output_length import Floats
from scheduler.prefix.holders import Holders
from scheduler.prefix.token_blocks import (
    BlocksRemoved,
    BlocksStored,
    CacheEvents,
    CacheReset,
    EngineHash,
    TokenBlocks,
    chain,
    root,
)

MOST_BLOCKS = 524_288
"""Blocks remembered over all caches of a model: at most 150 MB. Later ones are left out."""
MOST_BLOCK_SIZES = 4
"""Bound of the different block sizes among one model's engines."""


@dataclass(slots=True)
class _Cache:
    """The cache of one rank."""

    bit: int
    names: dict[EngineHash, int | None] = field(default_factory=dict)
    """Name of each block, keyed by the engine's name; None if no prompt here can hit the block."""
    copies: dict[EngineHash, int] = field(default_factory=dict)
    """Copies beyond the first one."""
    tokens: int = 0
    known: bool = False
    """Whether `names` is the whole content of the cache."""
    began_s: float = -np.inf
    """Time at which the cache was known to be empty."""
    block_tokens: int = 0


class EngineCaches:
    """Caches by placement (indices below `placements`) and rank."""

    def __init__(self, placements: int, most_blocks: int = MOST_BLOCKS) -> None:
        self._placements = placements
        self._most_blocks = most_blocks
        self._caches: dict[tuple[int, int], _Cache] = {}
        self._ranks: dict[int, int] = {}
        self._holders = Holders()
        self._blocks = 0
        self._free_bits: list[int] = []
        """Bits of caches that were removed."""
        self._figures: (
            tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], npt.NDArray[np.int64], Floats] | None
        ) = None
        """For each cache: the number of its bit, its placement, the tokens of a block, and the
        ranks of its placement."""
        self.known = np.zeros(placements, dtype=np.bool_)
        """Whether the whole content of a placement's caches is known, shape (placements,)."""
        self.block_sizes: tuple[int, ...] = ()
        """Block sizes in tokens that the engines have reported."""

    def __len__(self) -> int:
        return self._blocks

    def apply_events(self, placement: int, events: CacheEvents, now: float) -> None:
        """Applies the cache events of one rank of the placement."""
        self._ranks[placement] = events.ranks
        key = placement, events.rank
        cache = self._caches.get(key)
        if cache is None:
            bit = self._free_bits.pop() if self._free_bits else 1 << len(self._caches)
            cache = self._caches[key] = _Cache(bit)
            self._figures = None
        for change in events.changes:
            match change:
                case BlocksStored():
                    self._store(cache, change)
                case BlocksRemoved():
                    for engine_hash in change.hashes:
                        self._remove(cache, engine_hash)
                case CacheReset():
                    self._reset(cache, known=change.known)
                    if change.known:
                        cache.began_s = now
        self._sum_up(placement)

    def engine_restarted(self, placement: int, since_s: float) -> None:
        """Records that the engine restarted after `since_s`, which voids earlier events."""
        for cache in self._of(placement):
            if cache.began_s < since_s:
                self._reset(cache, known=False)
        self._sum_up(placement)

    def reindex(self, previous: Sequence[int | None]) -> None:
        """Moves the caches after placements were added, removed or reordered.

        `previous` has the former index of each placement, None for a new one.
        """
        index = {before: i for i, before in enumerate(previous) if before is not None}
        caches: dict[tuple[int, int], _Cache] = {}
        for (placement, rank), cache in self._caches.items():
            if placement in index:
                caches[index[placement], rank] = cache
            else:
                self._reset(cache, known=False)
                self._free_bits.append(cache.bit)
        self._caches = caches
        self._ranks = {index[p]: ranks for p, ranks in self._ranks.items() if p in index}
        self._placements = len(previous)
        self._figures = None
        used = {cache.block_tokens for cache in caches.values()}
        self.block_sizes = tuple(size for size in self.block_sizes if size in used)
        self.known = np.array(
            [before is not None and bool(self.known[before]) for before in previous],
            dtype=np.bool_,
        )

    def hit_tokens(self, prompt: tuple[TokenBlocks, ...]) -> Floats:
        """Leading tokens of the prompt in the caches of each placement, shape (placements,)."""
        if self._figures is None:
            caches = self._caches.items()
            sizes = [cache.block_tokens for _, cache in caches]
            ranks = [self._ranks[placement] for (placement, _), _ in caches]
            places = [placement for (placement, _), _ in caches]
            bits = [cache.bit.bit_length() - 1 for _, cache in caches]
            self._figures = (
                *(np.array(bits, dtype=np.intp), np.array(places, dtype=np.intp)),
                *(np.array(sizes), np.array(ranks)),
            )
        bits_of, places_of, sizes_of, ranks_of = self._figures
        width = len(self._caches) + len(self._free_bits)
        hits = np.zeros(len(self._caches))
        for cut in prompt:
            found = self._holders.leading(cut.names, width)[bits_of]
            hits += np.where(sizes_of == cut.block_tokens, found * cut.block_tokens, 0.0)
        of_placements = np.zeros(self._placements)
        np.add.at(of_placements, places_of, hits / ranks_of)
        return of_placements

    def is_known(self, placement: int) -> bool:
        """Whether the whole cache content of a placement is known; False for a remote."""
        return placement < self._placements and bool(self.known[placement])

    def _sum_up(self, placement: int) -> None:
        """Keeps `known` up to date."""
        caches = self._of(placement)
        whole = 0 < len(caches) == self._ranks.get(placement)
        self.known[placement] = whole and all(cache.known for cache in caches)

    def held_tokens(self, placement: int) -> int | None:
        """Tokens in the placement's caches; None: unknown."""
        if not self.is_known(placement):
            return None
        return sum(cache.tokens for cache in self._of(placement))

    def _of(self, placement: int) -> list[_Cache]:
        ranks = range(self._ranks.get(placement, 0))
        return [self._caches[placement, r] for r in ranks if (placement, r) in self._caches]

    def _store(self, cache: _Cache, stored: BlocksStored) -> None:
        size = stored.block_tokens
        if size not in self.block_sizes:
            if len(self.block_sizes) == MOST_BLOCK_SIZES:
                cache.known = False
                return
            self.block_sizes = (*self.block_sizes, size)
        if cache.block_tokens != size:
            if cache.names:  # an engine has one block size
                self._reset(cache, known=False)
            cache.block_tokens = size
            self._figures = None
        own: list[int | None] = [None] * len(stored.hashes)
        first = None if stored.salt is None else root(size, stored.salt, stored.adapter)
        if stored.parent is not None:
            first = None if stored.salt is None else cache.names.get(stored.parent)
        if first is not None:
            own = list(chain(first, stored.token_ids, size))
        for engine_hash, name in zip(stored.hashes, own, strict=True):
            cache.tokens += size
            if engine_hash in cache.names:
                cache.copies[engine_hash] = cache.copies.get(engine_hash, 0) + 1
                if name is None or cache.names[engine_hash] is not None:
                    continue
                # The blocks before it were unknown so far.
            elif self._blocks >= self._most_blocks:
                cache.known = False
                return
            else:
                self._blocks += 1
            cache.names[engine_hash] = name
            if name is not None:
                self._holders.add(name, cache.bit)

    def _remove(self, cache: _Cache, engine_hash: EngineHash) -> None:
        if engine_hash not in cache.names:
            return
        cache.tokens -= cache.block_tokens
        if (copies := cache.copies.pop(engine_hash, 0)) > 0:
            if copies > 1:
                cache.copies[engine_hash] = copies - 1
            return
        name = cache.names.pop(engine_hash)
        self._blocks -= 1
        if name is not None:
            self._holders.drop(name, cache.bit)

    def _reset(self, cache: _Cache, *, known: bool) -> None:
        for name in cache.names.values():
            if name is not None:
                self._holders.drop(name, cache.bit)
        self._blocks -= len(cache.names)
        cache.names.clear()
        cache.copies.clear()
        cache.tokens = 0
        cache.known = known
