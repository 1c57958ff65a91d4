"""How long answers are: the survival function of output lengths, learnt per model and key.

S(x) is the chance that an answer has more than x tokens. It is kept on a geometric grid, per key
as a decayed histogram that leans on the model's own until enough was seen (so that a key is never
trusted on a handful of answers), and the model's leans on an exponential prior. Rows are bounded:
a key that finds no row uses the model's.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

STEPS_PER_OCTAVE = 4
GRID_POINTS = 17 * STEPS_PER_OCTAVE + 1
"""1 to 131,072 tokens, 19 % apart."""
PRIOR_MEAN_TOKENS = 256.0
"""Before any answer was seen: the order of the mean of public chat traces."""
PRIOR_ANSWERS = 20.0
"""Answers that the prior counts for in the model's histogram, and the model's in a key's."""
MEMORY_ANSWERS = 1000.0
"""Answers after which an old one counts e times less."""
LONGER_SHARE = 0.1
MAX_ROWS = 1024
MODEL_ROW = 0

_GRID = 2.0 ** (np.arange(GRID_POINTS) / STEPS_PER_OCTAVE)
_PRIOR = np.exp(-_GRID / PRIOR_MEAN_TOKENS)
_WIDTHS = np.diff(_GRID, prepend=0.0)


class OutputLengths:
    """Survival functions of one model. `table` has a row per key and a column per grid point."""

    def __init__(self) -> None:
        self.table: Floats = np.tile(_PRIOR, (16, 1))
        self._counts: Floats = np.zeros((16, GRID_POINTS + 1))
        self._rows: dict[str, int] = {"": MODEL_ROW}
        self._expected: dict[tuple[str, int], tuple[float, int]] = {}
        """Means and quantiles since the last answer: few kinds of request come between two."""

    def row(self, key: str) -> int:
        """The row of a key's answers; the model's own when no row is free."""
        row = self._rows.get(key)
        if row is not None:
            return row
        row = len(self._rows)
        if row >= MAX_ROWS:
            return MODEL_ROW
        if row == len(self.table):
            self.table = np.concatenate((self.table, np.empty_like(self.table)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self.table[row] = self.table[MODEL_ROW]
        self._rows[key] = row
        return row

    def learn(self, key: str, tokens: float) -> None:
        """Takes the length of an answer that came to its end."""
        self._expected.clear()
        bucket = math.ceil(max(0.0, STEPS_PER_OCTAVE * math.log2(max(1.0, tokens))))
        self._count(MODEL_ROW, bucket, _PRIOR)
        row = self.row(key)
        if row != MODEL_ROW:
            self._count(row, bucket, self.table[MODEL_ROW])

    def _count(self, row: int, bucket: int, lean_on: Floats) -> None:
        counts = self._counts[row]
        counts *= 1.0 - 1.0 / MEMORY_ANSWERS
        counts[min(bucket, GRID_POINTS)] += 1.0
        total = counts.sum()
        longer = np.maximum(total - np.cumsum(counts[:-1]), 0.0)  # rounding goes below
        self.table[row] = (longer + PRIOR_ANSWERS * lean_on) / (total + PRIOR_ANSWERS)

    def survival(self, row: npt.NDArray[np.intp], tokens: Floats) -> Floats:
        """S(tokens) of these rows; both broadcast."""
        position = np.log2(np.maximum(tokens, 1.0))
        position *= STEPS_PER_OCTAVE
        position = np.minimum(position, GRID_POINTS - 1.001)
        at = position.astype(np.intp)
        share = position - at
        at = at + row * GRID_POINTS
        flat = self.table.ravel()
        lower = flat.take(at)
        at += 1
        return np.asarray(lower + share * (flat.take(at) - lower))

    def expected(self, key: str, longest: int) -> tuple[float, int]:
        """Mean length, and the one that `LONGER_SHARE` of the answers exceed; cut at `longest`."""
        found = self._expected.get((key, longest))
        if found is None:
            if len(self._expected) >= MAX_ROWS:
                self._expected.clear()
            found = self.mean(key, longest), self.quantile(key, LONGER_SHARE, longest)
            self._expected[key, longest] = found
        return found

    def mean(self, key: str, longest: int) -> float:
        """Expected length, cut at `longest` tokens: the integral of S."""
        table = self.table[self._rows.get(key, MODEL_ROW)]
        inside = np.minimum(_WIDTHS, np.maximum(0.0, longest - _GRID + _WIDTHS))
        return max(1.0, min(float(longest), float(table @ inside)))

    def quantile(self, key: str, survival: float, longest: int) -> int:
        """Length that an answer exceeds with this chance, at most `longest`."""
        table = self.table[self._rows.get(key, MODEL_ROW)]
        index = int(np.searchsorted(-table, -survival))
        return min(longest, math.ceil(float(_GRID[min(index, GRID_POINTS - 1)])))
