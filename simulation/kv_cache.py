"""KV blocks of a simulated engine: counted references, and a prefix cache over full blocks.

A block is free when no sequence refers to it. A free block keeps its content until it is taken
for something new, the least recently used first: so cached blocks count as free, as in vLLM
(vllm/v1/core/block_pool.py). Invariant: free + used = total.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import numpy as np

_HASH_BYTES = 16


def block_hash(parent: bytes, token_ids: Sequence[int]) -> bytes:
    """Chained hash of a full block: equal only if everything before it is equal, too."""
    data = np.asarray(token_ids, dtype=np.int64).tobytes()
    return blake2b(parent + data, digest_size=_HASH_BYTES).digest()


def root_hash(cache_salt: str) -> bytes:
    """Parent of the first block: requests with other salts share nothing."""
    return blake2b(cache_salt.encode(), digest_size=_HASH_BYTES).digest()


def blocks_for(tokens: int, block_size: int) -> int:
    """Blocks that `tokens` take."""
    return -(-tokens // block_size)


class BlockPool:
    """All blocks of one engine. Blocks are numbers from 0."""

    def __init__(self, total_blocks: int) -> None:
        self.total_blocks = total_blocks
        # Free blocks, the next to be taken first.
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(total_blocks))
        self._references = [0] * total_blocks
        self._hashes: list[bytes | None] = [None] * total_blocks
        self._cached: dict[bytes, int] = {}

    @property
    def free_blocks(self) -> int:
        """Blocks that no sequence holds, cached ones included."""
        return len(self._free)

    @property
    def used_blocks(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.total_blocks - len(self._free)

    @property
    def cached_blocks(self) -> int:
        """Blocks with content that a prompt may find."""
        return len(self._cached)

    def lookup(self, hashes: Sequence[bytes], most_blocks: int) -> list[int]:
        """The cached blocks of the longest known prefix, at most `most_blocks`. Takes nothing."""
        found = []
        for content in hashes[:most_blocks]:
            block = self._cached.get(content)
            if block is None:
                break
            found.append(block)
        return found

    def fits(self, shared: Sequence[int], new_blocks: int) -> bool:
        """Whether `new_blocks` can be had beside the `shared` ones."""
        idle = sum(not self._references[block] for block in shared)
        return new_blocks + idle <= len(self._free)

    def share(self, blocks: Sequence[int]) -> None:
        """Takes one more reference to each of the cached `blocks`."""
        for block in blocks:
            if not self._references[block]:
                del self._free[block]
            self._references[block] += 1

    def allocate(self, count: int) -> list[int] | None:
        """Takes `count` blocks, and what was cached in them is forgotten; None: not so many."""
        if count > len(self._free):
            return None
        taken = []
        for _ in range(count):
            block, _ = self._free.popitem(last=False)
            self._forget(block)
            self._references[block] = 1
            taken.append(block)
        return taken

    def remember(self, block: int, content: bytes) -> None:
        """Makes a full block findable; of two equal blocks the first stays the one found."""
        if content not in self._cached:
            self._cached[content] = block
            self._hashes[block] = content

    def release(self, blocks: Sequence[int]) -> None:
        """Gives back one reference to each; the last blocks of a prompt are reused first."""
        for block in reversed(blocks):
            self._references[block] -= 1
            if not self._references[block]:
                self._free[block] = None

    def _forget(self, block: int) -> None:
        content = self._hashes[block]
        if content is not None:
            del self._cached[content]
            self._hashes[block] = None
