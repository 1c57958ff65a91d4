"""Names of token blocks, and the cache events of engines.

An engine names blocks by hashes that only it can compute. Here the name of a block is a hash of its
tokens, of all tokens before it, of the block size, of the cache salt and of the LoRA adapter, so
that a prompt given as token ids and an engine's events lead to the same name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

EngineHash = int | bytes
"""An engine's own name of a block."""
_TOKEN_BYTES = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenBlocks:
    """A prompt in blocks of `block_tokens`: names of the full blocks that a hit can cover."""

    block_tokens: int
    names: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksStored:
    """Consecutive blocks were stored in the cache.

    `parent`: the block before the first one; None if the blocks begin a prompt. `salt`: cache salt
    of the prompt ("" for none), read only if the blocks begin a prompt. A salt of None means that
    the blocks depend on more than tokens, a salt and an adapter (pictures), so no prompt here can
    hit them. `adapter`: LoRA adapter that computed them; empty: none.
    """

    hashes: tuple[EngineHash, ...]
    parent: EngineHash | None
    token_ids: Sequence[int]
    block_tokens: int
    salt: str | None
    adapter: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksRemoved:
    """Blocks were removed from the cache."""

    hashes: tuple[EngineHash, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReset:
    """All earlier events of the cache are void.

    `known`: the cache is empty now, so later events give its whole content; otherwise it holds
    blocks for which no event was seen. `emptied`: the cache lost blocks that it held before.
    """

    known: bool
    emptied: bool


CacheChange = BlocksStored | BlocksRemoved | CacheReset


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheEvents:
    """Cache events of one of the `ranks` data-parallel ranks of a placement, in order."""

    placement: str
    rank: int
    ranks: int
    changes: tuple[CacheChange, ...]


def root(block_tokens: int, salt: str, adapter: str = "") -> int:
    """The name used as parent of a prompt's first block."""
    return _name("\n".join((str(block_tokens), salt, adapter)).encode())


def chain(parent: int, token_ids: Sequence[int], block_tokens: int) -> Iterator[int]:
    """Names of the full blocks that follow `parent`."""
    data = np.array(token_ids, dtype="<u8").tobytes()
    width = _TOKEN_BYTES * block_tokens
    for start in range(0, len(data) - width + 1, width):
        parent = _name(parent.to_bytes(8, "big") + data[start : start + width])
        yield parent


def _name(data: bytes) -> int:
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")
