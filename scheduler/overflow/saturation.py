"""Whether the own servers of a model are saturated: predicted wait over what is promised.

The wait is the work that waits over the rate at which work was started while some waited: measured,
so that an error in predicted work cancels out. The mark has hysteresis, in value and in time, so
that overflow does not flap. Requests that are late already are in neither: the mark holds them
back, so if they set it they would keep it set. What is *shown* counts them, and how long the others
have waited in fact (`shown_share`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

ON = 1.0
OFF = 0.6
"""The mark is set at a wait of ON x SLO and goes at OFF x SLO; overflow takes the same figures."""
DWELL_S = 60.0
"""Least time between two changes of the mark."""
SMOOTH_S = 5.0
"""Time constant of the value that sets the mark: a burst of a second is not saturation."""
RATE_MEMORY_S = 20.0
"""Time constant of the measured rate."""


class WorkRate:
    """Seconds of work that are started per second while requests wait, decayed."""

    def __init__(self) -> None:
        self._work_s = 0.0
        self._busy_s = 0.0
        self._at_s = 0.0

    def advance(self, now: float, *, waiting: bool) -> None:
        """Counts the time since the last call as busy, if requests waited in it."""
        passed_s = max(0.0, now - self._at_s)
        self._at_s = now
        if waiting and passed_s:
            keep = math.exp(-passed_s / RATE_MEMORY_S)
            self._work_s *= keep
            self._busy_s = self._busy_s * keep + passed_s

    def add_work(self, work_s: float) -> None:
        """Counts work that was started while requests waited."""
        self._work_s += work_s

    def per_s(self, groups_serving: int) -> float:
        """The rate; a group counts for 1 as long as nothing was measured."""
        prior_s = 1.0
        return (self._work_s + prior_s * max(1, groups_serving)) / (self._busy_s + prior_s)


class Saturation:
    """The smoothed value and the mark of one model's own servers."""

    def __init__(self) -> None:
        self.value = 0.0
        self.marked = False
        self._at_s = 0.0
        self._changed_s = -math.inf

    def observe(self, wait_share: float, now: float) -> None:
        """Takes the predicted wait over the time to first token promised, as it is now."""
        passed_s = max(0.0, now - self._at_s)
        self._at_s = now
        self.value += (wait_share - self.value) * (1.0 - math.exp(-passed_s / SMOOTH_S))
        if now - self._changed_s < DWELL_S:
            return
        if self.value < OFF if self.marked else self.value >= ON:
            self.marked = not self.marked
            self._changed_s = now

    @property
    def wait_share(self) -> float:
        """Share of the promised time to first token that a request may wait before it overflows."""
        return OFF if self.marked else ON


def shown_share(arrival_share: float, waiting: Iterable[tuple[float, float]]) -> float:
    """What operators are shown: the wait over the time to first token promised, as the mean over
    the work that waits, nobody's less than that of an arrival.

    `arrival_share`: what a new request meets (`Saturation.value`); `waiting`: of each request its
    work, and the share that it has waited or, late, will have.
    """
    work_s = weighted_s = 0.0
    for its_work_s, share in waiting:
        work_s += its_work_s
        weighted_s += its_work_s * max(arrival_share, share)
    return weighted_s / work_s if work_s else arrival_share
