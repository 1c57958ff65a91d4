"""KV blocks of a simulated engine: counted references, and a prefix cache over full extents.

An extent is a run of blocks that is cached as a whole under a key that names its content and
everything before it: one block for an engine that knows its tokens, the hash block of a trace for
one that knows lengths only. Blocks without a key are counted, not named. A block is free when no
sequence refers to it. What is free keeps its content until it is taken for something new: blocks
that are not full go first, then the least recently used. So cached blocks count as free, as in vLLM
(vllm/v1/core/block_pool.py).
Invariant: free + used = total.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from hashlib import blake2b

import numpy as np

_HASH_BYTES = 16

Key = Hashable
"""Content of an extent, with all that stands before it."""


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Chained hash of a full block: equal only if everything before it is equal, too."""
    data = np.asarray(token_ids, dtype=np.int64).tobytes()
    return blake2b(parent + data, digest_size=_HASH_BYTES).digest()


def root_hash(cache_salt: str, adapter: str = "") -> bytes:
    """Parent of the first block: requests with other salts or adapters share nothing."""
    named = f"{cache_salt}\n{adapter}" if adapter else cache_salt
    return blake2b(named.encode(), digest_size=_HASH_BYTES).digest()


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that `tokens` take."""
    return -(-tokens // block_size)


class _Nameless:
    """Placeholder in the free order for blocks without a key."""

    __slots__ = ()


class BlockPool:
    """All blocks of one engine rank; an extent is `extent_blocks` of them."""

    def __init__(self, total_blocks: int, extent_blocks: int = 1) -> None:
        self.total_blocks = total_blocks
        self.extent_blocks = extent_blocks
        self.free_blocks = total_blocks
        """Blocks that no sequence holds, cached ones included."""
        self._spare = total_blocks
        """Free blocks that go before all others: never used, not full, or left over from an
        extent."""
        self._order: OrderedDict[Key, int] = OrderedDict()
        """The other free ones, the next to be taken first, with their number of blocks."""
        self._references: dict[Key, int] = {}
        """References of every cached extent; 0: it is free and stands in `_order`."""

    @property
    def used_blocks(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.total_blocks - self.free_blocks

    def lookup(self, keys: Sequence[Key], most_extents: int) -> list[Key]:
        """Keys of the longest known prefix, at most `most_extents`. Takes nothing."""
        known = self._references
        found: list[Key] = []
        for key in keys[:most_extents]:
            if key not in known:
                break
            found.append(key)
        return found

    def fits(self, shared: Sequence[Key], new_blocks: int) -> bool:
        """Whether `new_blocks` can be had beside the `shared` extents."""
        if new_blocks > self.free_blocks:
            return False
        references = self._references
        idle = sum(not references[key] for key in shared)
        return new_blocks + idle * self.extent_blocks <= self.free_blocks

    def share(self, keys: Sequence[Key]) -> None:
        """Takes one more reference to each of the cached extents."""
        references = self._references
        for key in keys:
            if not references[key]:
                del self._order[key]
                self.free_blocks -= self.extent_blocks
            references[key] += 1

    def take(self, blocks: int) -> None:
        """Takes blocks and drops their cached content. Raises OverflowError: too many."""
        if blocks > self.free_blocks:
            raise OverflowError(f"{blocks} blocks of {self.free_blocks}")
        self.free_blocks -= blocks
        while self._spare < blocks:
            key, count = self._order.popitem(last=False)
            self._references.pop(key, None)
            self._spare += count
        self._spare -= blocks

    def remember(self, key: Key) -> bool:
        """Names an extent of taken blocks; False where the same content is known already."""
        if key in self._references:
            return False
        self._references[key] = 1
        return True

    def release(self, keys: Sequence[Key], nameless_blocks: int, unfilled_blocks: int = 0) -> None:
        """Gives back a reference to each extent, and the rest; the end of a prompt is reused first.

        Of a block that is not full, or equals one that another sequence named, nothing is kept.
        `unfilled_blocks`: of the nameless ones, those that are not full; they are reused before
        all others.
        """
        self.free_blocks += nameless_blocks
        self._spare += unfilled_blocks
        if nameless_blocks > unfilled_blocks:
            self._order[_Nameless()] = nameless_blocks - unfilled_blocks
        references, order = self._references, self._order
        for key in reversed(keys):
            references[key] -= 1
            if not references[key]:
                order[key] = self.extent_blocks
                self.free_blocks += self.extent_blocks
