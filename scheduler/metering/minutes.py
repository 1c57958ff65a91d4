"""The minutes of a pool's last day, stored so that comparing all of them is cheap.

The sums of a minute and its point of load and cost are computed once, when it ends. The best minute
weighs each kind of token by its cost over the whole day, so each query compares all minutes again;
one array holds their figures for that.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple

import numpy as np

from scheduler.metering.report import SLO_SHARE, LoadPoint, direct_cost, load_point, tokens_of
from scheduler.metering.totals import Totals
from scheduler.step_time.step_model import FloatArray

DAY_MINUTES = 24 * 60
Sums = tuple[int, Totals]
"""A time, and the sums accrued until then."""


class _Minute(NamedTuple):
    begin_ns: int
    brought: Totals
    point: LoadPoint | None


class Minutes:
    """The newest `most` minutes that have ended; the caller ends them in order."""

    def __init__(self, begin: Sums, most: int = DAY_MINUTES) -> None:
        self.most = most
        self._ends: deque[Sums] = deque([begin], maxlen=most + 1)
        self._minutes: deque[_Minute] = deque(maxlen=most)
        self._figures: FloatArray = np.empty((0, 4))
        """Of each minute: tokens by kind, and all that accrued, infinite where the SLO was not
        kept, or nothing is known of it or of the price."""
        self._tokens = [0, 0, 0]
        self._cost = [0, 0, 0]

    @property
    def last(self) -> Sums:
        """The end of the newest minute."""
        return self._ends[-1]

    def restate(self, sums: Totals) -> None:
        """Replaces the first sums: before any minute ended, a group joined that had sums
        already."""
        self._ends[-1] = (self._ends[-1][0], sums)

    def end(self, now_ns: int, sums: Totals) -> None:
        """Ends a minute."""
        begin_ns, before = self.last
        minute = _Minute(begin_ns, *_row((begin_ns, before), (now_ns, sums)))
        if len(self._minutes) == self.most:
            self._count(self._minutes[0].brought, -1)
        self._ends.append((now_ns, sums))
        self._minutes.append(minute)
        self._count(minute.brought, 1)
        row = _figures(minute.brought)
        self._figures = np.vstack([self._figures, row])[-self.most :]

    def _count(self, brought: Totals, sign: int) -> None:
        if brought.unpriced_ns:
            return  # tokens whose cost is not known weigh nothing
        for kind, (tokens, cost) in enumerate(
            zip(tokens_of(brought), direct_cost(brought), strict=True)
        ):
            self._tokens[kind] += sign * tokens
            self._cost[kind] += sign * cost

    def at(self, start_ns: int) -> Sums:
        """The newest sums from `start_ns` or earlier, else the oldest kept."""
        return newest_at(self._ends, start_ns)

    def points(self, start_ns: int, now: Sums) -> list[LoadPoint]:
        """Of the minutes with tokens that began at `start_ns` or later, the one under way too."""
        first = bisect_left(self._minutes, start_ns, key=itemgetter(0))
        found = [minute.point for minute in list(self._minutes)[first:]]
        if self.last[0] >= start_ns and now[0] > self.last[0]:
            found.append(_row(self.last, now)[1])
        return [point for point in found if point is not None]

    def best(self, now: Sums) -> Totals | None:
        """The minute with the least cost per work of those that kept their SLO; None: none did.

        Work counts each kind of token by what it has cost over all minutes, so that a minute does
        not win by its mix of tokens. The minute under way counts only while no other does: within
        a few seconds, tokens and the time that they cost do not fall together.
        """
        found = self._best(self._figures, [minute.brought for minute in self._minutes])
        if found is None and now[0] > self.last[0]:
            under_way, _ = _row(self.last, now)
            self._count(under_way, 1)
            found = self._best(_figures(under_way), [under_way])
            self._count(under_way, -1)
        return found

    def _best(self, figures: FloatArray, rows: Sequence[Totals]) -> Totals | None:
        if not rows:
            return None
        weights = [
            cost / tokens if tokens else 0.0
            for tokens, cost in zip(self._tokens, self._cost, strict=True)
        ]
        uncached, cached, output, accrued = figures.T
        work = weights[0] * uncached + weights[1] * cached + weights[2] * output
        cost_per_work = np.full(len(rows), np.inf)
        np.divide(accrued, work, out=cost_per_work, where=work > 0)
        best = int(cost_per_work.argmin())
        return rows[best] if np.isfinite(cost_per_work[best]) else None


def newest_at(kept: Sequence[Sums], start_ns: int) -> Sums:
    """The newest of `kept`, sorted, from `start_ns` or earlier, else the oldest."""
    return kept[max(0, bisect_right(kept, start_ns, key=itemgetter(0)) - 1)]


def _row(begin: Sums, end: Sums) -> tuple[Totals, LoadPoint | None]:
    brought = end[1].minus(begin[1])
    return brought, load_point(brought, end[0] - begin[0])


def _figures(brought: Totals) -> FloatArray:
    kept_slo = brought.slo_known and brought.slo_met >= SLO_SHARE * brought.slo_known
    accrued = float(brought.accrued) if kept_slo and not brought.unpriced_ns else np.inf
    return np.array([[*map(float, tokens_of(brought)), accrued]])
