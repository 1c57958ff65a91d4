"""The order in which the items of an offline job are started.

Items that begin alike run one after another, so that the engine finds their common prefix in its
cache. Among items without a common prefix those that resemble each other are neighbours: similar
texts are routed to similar experts, so that a step of neighbours touches fewer of them. Where the
experts of earlier requests are known, neighbours are those that probably use the same ones.

Only beginnings are compared, and only within a window: what is given at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from scheduler.prefix.byte_runs import hashed_runs
from scheduler.prefix.expert_affinity import ExpertTable, Vectors

LEAST_PREFIX_BYTES = 256
"""A common beginning from which on items are kept together: about four blocks of a prefix cache."""
SKETCH_BITS = 64
MOST_RUNS = 400
"""Runs of one text that its sketch reads, evenly spread."""
SKETCH_WEIGHT = 0.5
"""Of the share of differing bits of sketches, beside the cosine between expected experts."""

_ONE = np.uint64(0x5555555555555555)
_TWO = np.uint64(0x3333333333333333)
_FOUR = np.uint64(0x0F0F0F0F0F0F0F0F)
_EACH_BYTE = np.uint64(0x0101010101010101)
Sketches = npt.NDArray[np.uint64]


def order_items(beginnings: Sequence[bytes], table: ExpertTable | None = None) -> list[int]:
    """Returns the indices of the items in the order in which they should start. `beginnings`: of
    their prompts; `table`: the experts that texts were seen with, None: unknown. Takes time in
    proportion to n log n, and n squared in fast array operations for the items that have no common
    prefix."""
    if not beginnings:
        return []
    return _ordered(beginnings, list(range(len(beginnings))), 0, table)


def _ordered(
    texts: Sequence[bytes], members: list[int], common: int, table: ExpertTable | None
) -> list[int]:
    """Orders items that have their first `common` bytes in common. What they have in common says
    nothing of how alike they are."""
    families = _families(texts, members, common + LEAST_PREFIX_BYTES)
    if len(families) == 1 and len(members) > 1:
        return _ordered(texts, members, _common_of(texts, members), table)
    heads = [texts[family[0]][common:] for family in families]
    sketches = np.array([sketch(head) for head in heads], np.uint64)
    ordered: list[int] = []
    for at in _chain(sketches, None if table is None else table.directions(heads)):
        family = families[at]
        if len(family) < 3:
            ordered += family
        else:
            ordered += _ordered(texts, family, _common_of(texts, family), table)
    return ordered


def _families(texts: Sequence[bytes], members: Iterable[int], length: int) -> list[list[int]]:
    """Groups items by their first `length` bytes. A shorter item is a family of its own."""
    found: dict[bytes | int, list[int]] = {}
    for index in members:
        text = texts[index]
        key: bytes | int = text[:length] if len(text) >= length else index
        found.setdefault(key, []).append(index)
    return [*found.values()]


def _common_of(texts: Sequence[bytes], members: Sequence[int]) -> int:
    """Length of the common beginning of items: that of the first and the last one by order."""
    first = min(members, key=texts.__getitem__)
    return _common_bytes(texts[first], texts[max(members, key=texts.__getitem__)])


def _common_bytes(one: bytes, other: bytes) -> int:
    """Length of the common beginning."""
    shorter = min(len(one), len(other))
    if one[:shorter] == other[:shorter]:
        return shorter
    low, high = 0, shorter
    while low < high - 1:
        middle = (low + high) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle
    return low


def sketch(text: bytes) -> int:
    """A SimHash (Charikar, STOC 2002) of the runs of bytes of a text: similar texts differ in few
    of its `SKETCH_BITS` bits."""
    runs = hashed_runs(text, MOST_RUNS)
    bits = np.unpackbits(runs.view(np.uint8).reshape(len(runs), -1), axis=1)
    majority = 2 * bits.sum(axis=0) > len(bits)
    return int.from_bytes(np.packbits(majority).tobytes(), "big")


def _chain(sketches: Sketches, directions: Vectors | None) -> list[int]:
    """Orders items so that each follows the nearest one that is left: by the bits in which sketches
    differ, and by the angle between the experts that they probably use."""
    left = np.arange(len(sketches))
    rest, towards = sketches.copy(), directions
    chain = []
    at = 0
    while len(left):
        chain.append(int(left[at]))
        own = rest[at]
        left, rest = np.delete(left, at), np.delete(rest, at)
        far = _bits(rest ^ own).astype(np.float32) * np.float32(SKETCH_WEIGHT / SKETCH_BITS)
        if towards is not None:
            direction = towards[at]
            towards = np.delete(towards, at, axis=0)
            far -= towards @ direction
        if len(left):
            at = int(np.argmin(far))
    return chain


def _bits(words: Sketches) -> npt.NDArray[np.uint64]:
    """Bits that are set in each word (Hacker's Delight, 5-1)."""
    words = words - ((words >> np.uint64(1)) & _ONE)
    words = (words & _TWO) + ((words >> np.uint64(2)) & _TWO)
    words = (words + (words >> np.uint64(4))) & _FOUR
    return (words * _EACH_BYTE) >> np.uint64(56)
