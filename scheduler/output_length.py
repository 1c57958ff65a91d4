"""Survival functions of output lengths, learnt online per model and API key.

S(x) is the probability that an answer has more than x tokens, on a geometric grid. Each key has an
exponentially decayed histogram that is shrunk to the histogram of the model, and the model's is
shrunk to an exponential prior, so that few answers of a key do not outweigh the rest. The number of
rows is bounded: a key without a row uses the model's.
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
"""Mean of the prior: the order of magnitude of public chat traces."""
PRIOR_ANSWERS = 20.0
"""Weight of the prior in the model's histogram, and of the model's in a key's, in answers."""
MEMORY_ANSWERS = 1000.0
"""Number of answers after which the weight of an old one has fallen to 1/e."""
LONGER_SHARE = 0.1
MAX_ROWS = 1024
MODEL_ROW = 0

_GRID = 2.0 ** (np.arange(GRID_POINTS) / STEPS_PER_OCTAVE)
_PRIOR = np.exp(-_GRID / PRIOR_MEAN_TOKENS)
_WIDTHS = np.diff(_GRID, prepend=0.0)
_INDEX = np.arange(float(GRID_POINTS))
# numpy takes arrays without dimensions faster than Python numbers, and fmax and fmin take a third
# of the time of maximum and minimum, which look for NaN.
_ONE = np.array(1.0)
_STEPS = np.array(float(STEPS_PER_OCTAVE))
_ZERO = np.array(0.0)
_FADES = np.array(1.0 - 1.0 / MEMORY_ANSWERS)
_PRIOR_ANSWERS = np.array(PRIOR_ANSWERS)
_LINE_POINTS = np.array(2.0 * GRID_POINTS)
_LAST_POSITION = np.array(GRID_POINTS - 1.001)


class OutputLengths:
    """Survival functions of one model. `table` has a row per key and a column per grid point."""

    def __init__(self) -> None:
        self.table: Floats = np.tile(_PRIOR, (16, 1))
        self.answers = 0
        """Answers that were learnt."""
        self._lines: Floats = np.empty((16, 2, GRID_POINTS))
        """Per row, the straight lines of S between grid points, over the position on the grid."""
        self._redraw = {MODEL_ROW}
        """Rows whose lines are outdated; `survival` redraws them."""
        self._counts: Floats = np.zeros((16, GRID_POINTS + 1))
        self._rows: dict[str, int] = {"": MODEL_ROW}
        self._widths: dict[int, Floats] = {}
        self._expected: dict[tuple[str, int], tuple[float, int]] = {}
        """Cache of means and quantiles, cleared by every answer."""

    def row(self, key: str) -> int:
        """The row of a key; the model's row if no row is free."""
        row = self._rows.get(key)
        if row is not None:
            return row
        row = len(self._rows)
        if row >= MAX_ROWS:
            return MODEL_ROW
        if row == len(self.table):
            self.table = np.concatenate((self.table, np.empty_like(self.table)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._lines = np.concatenate((self._lines, np.empty_like(self._lines)))
        self.table[row] = self.table[MODEL_ROW]
        self._redraw.add(row)
        self._rows[key] = row
        return row

    def known_row(self, key: str) -> int:
        """The row of a key; the model's row if it has none yet."""
        return self._rows.get(key, MODEL_ROW)

    def learn(self, key: str, tokens: float) -> None:
        """Learns the length of an answer that was completed."""
        self._expected.clear()
        self.answers += 1
        bucket = math.ceil(max(0.0, STEPS_PER_OCTAVE * math.log2(max(1.0, tokens))))
        self._count(MODEL_ROW, bucket, _PRIOR)
        row = self.row(key)
        if row != MODEL_ROW:
            self._count(row, bucket, self.table[MODEL_ROW])

    def _count(self, row: int, bucket: int, lean_on: Floats) -> None:
        # In place: as an expression with temporary arrays it takes three times as long.
        counts, table = self._counts[row], self.table[row]
        counts *= _FADES
        counts[min(bucket, GRID_POINTS)] += 1.0
        total = np.add.reduce(counts)
        np.add.accumulate(counts[:-1], out=table)
        np.subtract(total, table, table)
        np.fmax(table, _ZERO, table)  # rounding goes below
        table += _PRIOR_ANSWERS * lean_on
        table /= total + _PRIOR_ANSWERS
        self._redraw.add(row)

    def survival(self, row: Floats, tokens: Floats) -> Floats:
        """S(tokens) of the given rows, shape (rows,); both arguments broadcast."""
        if self._redraw:
            for drawn in self._redraw.intersection(map(int, row.tolist())):
                _draw(self._lines[drawn], self.table[drawn])
                self._redraw.discard(drawn)
        position: Floats = np.fmax(tokens, _ONE)
        np.log2(position, position)
        position *= _STEPS
        np.fmin(position, _LAST_POSITION, position)
        at = (position + row * _LINE_POINTS).astype(np.intp)
        flat = self._lines.ravel()
        position *= flat.take(at)
        position += flat[GRID_POINTS:].take(at)
        return position

    @property
    def learnt(self) -> bool:
        """Whether the model's answers outweigh the prior, which is a guess."""
        return self.answers >= PRIOR_ANSWERS

    def survival_of_first(self, row: int) -> float:
        """S(1) of a row."""
        return self.table.item(row, 0)

    def expected(self, key: str, longest: int) -> tuple[float, int]:
        """Mean length, and the length that `LONGER_SHARE` of answers exceed, cut at `longest`."""
        found = self._expected.get((key, longest))
        if found is None:
            if len(self._expected) >= MAX_ROWS:
                self._expected.clear()
            found = self.mean(key, longest), self.quantile(key, LONGER_SHARE, longest)
            self._expected[key, longest] = found
        return found

    def mean(self, key: str, longest: int) -> float:
        """Expected length cut at `longest` tokens: the integral of S."""
        table = self.table[self.known_row(key)]
        inside = self._widths.get(longest)
        if inside is None:
            if len(self._widths) >= MAX_ROWS:
                self._widths.clear()
            inside = np.minimum(_WIDTHS, np.maximum(0.0, longest - _GRID + _WIDTHS))
            self._widths[longest] = inside
        return max(1.0, min(float(longest), float(table.dot(inside))))

    def quantile(self, key: str, survival: float, longest: int) -> int:
        """Length that an answer exceeds with probability `survival`, at most `longest`."""
        table = self.table[self.known_row(key)]
        index = int(np.count_nonzero(table > survival))  # it falls
        return min(longest, math.ceil(_GRID.item(min(index, GRID_POINTS - 1))))


def _draw(line: Floats, table: Floats) -> None:
    """Writes the lines between grid points, shape (2, GRID_POINTS): rises, then starts."""
    rise, start = line
    np.subtract(table[1:], table[:-1], rise[:-1])
    rise[-1] = 0.0
    np.multiply(rise, _INDEX, start)
    np.subtract(table, start, start)
