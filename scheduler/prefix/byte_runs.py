"""The short runs of bytes that a text consists of, hashed: what makes texts alike, without the
words of any language."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
RUN_BYTES = 5

_BYTE = np.uint64(8)
_MIX = (
    (np.uint64(0xBF58476D1CE4E5B9), np.uint64(30)),
    (np.uint64(0x94D049BB133111EB), np.uint64(27)),
)
_LAST_SHIFT = np.uint64(31)


def hashed_runs(text: bytes, most: int) -> Hashes:
    """Hashes of about `most` runs of a text at most, evenly spread."""
    letters = np.frombuffer(text.ljust(RUN_BYTES, b"\0"), np.uint8).astype(np.uint64)
    count = len(letters) - RUN_BYTES + 1
    step = max(1, count // most)
    runs = np.zeros(len(range(0, count, step)), np.uint64)
    for at in range(RUN_BYTES):
        runs = (runs << _BYTE) | letters[at : at + count : step]
    return mixed(runs)


def mixed(words: Hashes) -> Hashes:
    """The finalizer of SplitMix64: every bit of the result depends on all of a word."""
    for factor, shift in _MIX:
        words = (words ^ (words >> shift)) * factor
    return words ^ (words >> _LAST_SHIFT)
