"""Which experts the texts of finished requests were routed to, to tell it of texts that wait.

A router chooses experts token by token. So the experts of a text are about the sum of what its
short runs of bytes were seen with: for each run the mean of the signatures of the requests that had
it, less the mean of all. Runs that stand in every text say nothing then, and some hundred requests
suffice.

A signature becomes a short vector by random signs, one for each expert of each layer, so that alike
signatures have near vectors whatever the number of experts. Runs are hashed into a fixed table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from scheduler.prefix.byte_runs import hashed_runs, mixed

Rows = npt.NDArray[np.uint16]
Vectors = npt.NDArray[np.float32]
TABLE_ROWS = 8192
DIMENSIONS = 32
LEAST_OBSERVED = 64
"""Requests before which nothing is told."""
MOST_RUNS = 4096
"""Runs of a text that are read."""
SHRINK = 2.0
"""A run counts as if it had been seen so often in requests of the mean signature, too."""
_LAYER_EXPERTS = 65_536


def rows_of(text: bytes) -> Rows:
    """The rows of the table that a text's runs have, each once."""
    hashes = hashed_runs(text, MOST_RUNS)
    rows: Rows = np.unique(hashes % np.uint64(TABLE_ROWS)).astype(np.uint16)
    return rows


@dataclass(frozen=True, slots=True, eq=False)
class ExpertTable:
    """What is known at one time. `rows`: shape (TABLE_ROWS, DIMENSIONS)."""

    rows: Vectors

    def directions(self, texts: Sequence[bytes]) -> Vectors:
        """Where the experts of each text lie, against the mean of these texts: unit vectors of
        shape (texts, DIMENSIONS), or 0 where nothing of a text is known."""
        found = np.array([self.rows[rows_of(text)].sum(axis=0) for text in texts], np.float32)
        found -= found.mean(axis=0)
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        directions: Vectors = found / np.maximum(lengths, np.float32(1e-6))
        return directions


class ExpertAffinity:
    """Learns from the signatures of one model: 1 MiB."""

    def __init__(self) -> None:
        self._sums = np.zeros((TABLE_ROWS, DIMENSIONS), np.float32)
        self._counts = np.zeros((TABLE_ROWS, 1), np.float32)
        self._sum = np.zeros(DIMENSIONS, np.float32)
        self.observed = 0

    def observe(self, rows: Rows, experts: Sequence[Iterable[int]]) -> None:
        """Takes the signature of a finished request. `rows`: of its text; `experts`: those that it
        used most, by layer."""
        used = [
            layer * _LAYER_EXPERTS + expert % _LAYER_EXPERTS
            for layer, chosen in enumerate(experts)
            for expert in chosen
        ]
        if not used:
            return
        vector = _signs(used).mean(axis=0)
        self._sums[rows] += vector
        self._counts[rows] += 1.0
        self._sum += vector
        self.observed += 1

    def table(self) -> ExpertTable | None:
        """What is known now; None: too little."""
        if self.observed < LEAST_OBSERVED:
            return None
        mean = self._sum / self.observed
        return ExpertTable((self._sums - self._counts * mean) / (self._counts + SHRINK))


def _signs(words: Sequence[int]) -> Vectors:
    """Random signs of each number, always the same: shape (words, DIMENSIONS)."""
    hashes = mixed(np.array(words, np.uint64) + np.uint64(1))
    bits = np.unpackbits(hashes.view(np.uint8).reshape(len(words), -1), axis=1)[:, :DIMENSIONS]
    signs: Vectors = 2.0 * bits.astype(np.float32) - 1.0
    return signs
