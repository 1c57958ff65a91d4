"""Interference: how many running streams lose their TPOT SLO to the prefill of a new request.

A stream's SLO bounds its mean time per output token. While a prefill stalls the group, each stream
falls behind; it catches up by the difference between the SLO and the step time with every further
token. A stream that ends before it has caught up violates its SLO. For a stream with g tokens in
the e seconds since its first one, an SLO of L per token and a step of T seconds, a stall of s gives

    late = e + s - L (g - 1)    seconds behind its mean over the gaps so far,
    x    = late / (L - T)       further tokens until it has recovered.

With S the survival function of output lengths, 1 - S(g + x) / S(g) is the probability that the
stream ends before it has recovered. Where T > L no stream recovers, and a stream violates its SLO
if it lives long enough to use up its lead. The sum over all streams as a function of s is the
group's interference curve. The violations that a request is expected to cause are the rise of that
curve from the pending stall to the stall with the request's prefill, so one curve serves all quotes
until the streams have moved on.

A request whose prefill is pending is a stream of one token that starts when its prefill ends, with
weight S(1), the probability that its answer has more than one token. A stream that has missed its
time to first token no longer counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from scheduler.output_length import Floats, OutputLengths

STALL_POINTS = 20
_FIRST_STALL_S = 0.02
_STALL_RATIO = 1.5
STALLS_S: Floats = _FIRST_STALL_S * (np.power(_STALL_RATIO, np.arange(float(STALL_POINTS))) - 1.0)
"""Stalls at which a curve is evaluated: 0 to 44 s."""
_COLUMN_S = STALLS_S[:, None]
_POINTS = np.arange(float(STALL_POINTS))
# numpy takes arrays without dimensions faster than Python numbers.
_ONE = np.array(1.0)
_PER_FIRST_STALL = np.array(1.0 / _FIRST_STALL_S)
_PER_LOG_RATIO = np.array(1.0 / np.log(_STALL_RATIO))
_LAST_POSITION = np.array(STALL_POINTS - 1.001)
SILENCE_S = 0.05
"""Token counts arrive this late: a stream is assumed to have continued for up to this long."""

_SILENCE, _LEAST, _ZERO = np.array(SILENCE_S), np.array(1e-9), np.array(0.0)

_FIRST, _SEEN, _TOKENS, _LIMIT, _MOST, _WEIGHT, _ROW = range(7)


def stall_position(stall_s: Floats, position: Floats) -> Floats:
    """Writes the positions of stalls on the grid of the curves to `position`, for interpolation."""
    np.multiply(stall_s, _PER_FIRST_STALL, position)
    np.log1p(position, position)
    position *= _PER_LOG_RATIO
    np.fmin(position, _LAST_POSITION, position)
    return position


def write_lines(curve: Floats, lines: Floats) -> None:
    """Writes the straight lines between the points of a curve to `lines`, shape (2, points): rises,
    then values at position 0. The last rise stays 0."""
    rise, start = lines
    np.subtract(curve[1:], curve[:-1], rise[:-1])
    np.multiply(rise, _POINTS, start)
    np.subtract(curve, start, start)


class Streams:
    """Attempts that run in one group, one column each; the last column moves into a gap."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._rows: dict[str, int] = {}
        self._table: Floats = np.zeros((7, 16))

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, request_id: str, *, limit_s: float, most_tokens: int, row: int) -> None:
        """Adds an attempt that has no token yet. `row`: the row of its key in `OutputLengths`."""
        index = len(self._ids)
        if index == self._table.shape[1]:
            self._table = np.concatenate((self._table, np.zeros_like(self._table)), axis=1)
        self._ids.append(request_id)
        self._rows[request_id] = index
        weight = float(most_tokens > 1)  # a single token has no time per token
        self._table[:, index] = (np.nan, 0.0, 1.0, limit_s, most_tokens, weight, row)

    def first_token(self, request_id: str, now: float, *, in_time: bool) -> None:
        """Records the first token; `in_time`: its TTFT SLO is kept, so that its TPOT SLO counts."""
        index = self._rows[request_id]
        self._table[_FIRST, index] = self._table[_SEEN, index] = now
        if not in_time:
            self._table[_WEIGHT, index] = 0.0

    def progress(self, request_id: str, tokens: float, now: float) -> None:
        """Records the tokens received so far, per choice."""
        index = self._rows[request_id]
        self._table[_TOKENS, index] = tokens
        self._table[_SEEN, index] = now

    def remove(self, request_id: str) -> None:
        """Removes an attempt that has ended."""
        index = self._rows.pop(request_id)
        last = self._ids.pop()
        if last != request_id:
            self._ids[index] = last
            self._rows[last] = index
            self._table[:, index] = self._table[:, len(self._ids)]

    def curve(
        self, starts_s: Mapping[str, float], step_s: float, lengths: OutputLengths, now: float
    ) -> Floats:
        """Expected SLO violations at each of STALLS_S, shape (STALL_POINTS,).

        `starts_s`: seconds from now until each attempt without a token has its first one;
        `step_s`: time per token with one more request in the batch.
        """
        count = len(self._ids)
        if count == 0:
            return np.zeros(STALL_POINTS)
        table = self._table[:, :count]
        limit_s, most, weight, rows = table[_LIMIT:]
        if not np.count_nonzero(weight):
            return np.zeros(STALL_POINTS)
        step = np.array(step_s)
        # Since the first token, and since the newest.
        elapsed_s, tokens = np.array(now) - table[:_TOKENS]
        np.fmin(tokens, _SILENCE, tokens)
        tokens /= step
        tokens += table[_TOKENS]
        weight = weight.copy()
        for request_id, start_s in starts_s.items():
            at = self._rows[request_id]
            elapsed_s[at], tokens[at] = -start_s, 1.0
            # An answer of one token has no time per token.
            weight[at] *= lengths.survival_of_first(int(rows.item(at)))
        late_s = elapsed_s - limit_s * (tokens - _ONE)
        regained_s = limit_s - step
        # Row 0: the tokens of each stream; then the tokens at which it has recovered, per stall.
        reached = np.empty((STALL_POINTS + 1, count))
        reached[0] = tokens
        recovered = reached[1:]
        if regained_s.item(regained_s.argmin()) > 1e-9:
            # All streams can recover, so a longer stall never lowers a figure.
            np.divide(_COLUMN_S, regained_s, recovered)
            recovered += late_s / regained_s + tokens
            np.fmax(recovered, tokens, recovered)
            if not np.count_nonzero(recovered[-1] >= most):
                survival = lengths.survival(rows, reached)
                if survival[0].item(survival[0].argmin()) > 1e-9:
                    alive = survival.dot(weight / survival[0])
                    return np.asarray(alive[0] - alive[1:])
        stalled_s = _COLUMN_S + late_s
        np.abs(stalled_s, recovered)
        recovered /= np.fmax(np.abs(regained_s), _LEAST)
        recovered += tokens
        survival = lengths.survival(rows, reached)
        lives = survival[1:] / np.fmax(survival[0], _LEAST)
        np.fmin(lives, _ONE, lives)
        lives[recovered >= most] = 0.0
        behind = stalled_s > _ZERO
        lost = behind * (_ONE - lives)
        lost = np.where(regained_s > _ZERO, lost, np.where(behind, _ONE, lives))
        return np.asarray(lost.dot(weight))
