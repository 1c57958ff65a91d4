"""Saturation of a model's self-hosted servers: predicted wait over promised time to first token.

The predicted wait is the queued work divided by the measured rate at which work was started while
requests waited. The rate is measured in predicted work, so an error of the prediction cancels out.
The mark has hysteresis in value and in time, so that overflow does not flap. Requests that are late
already do not count: the mark holds them back, so they would keep it set. The figure shown to
operators counts them, and the time that the other requests have waited (`shown_share`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

ON = 1.0
OFF = 0.6
"""The mark is set at a wait of ON x SLO, cleared at OFF x SLO; overflow uses the same figures."""
DWELL_S = 60.0
"""Least time between two changes of the mark."""
SMOOTH_S = 5.0
"""Time constant of the smoothed value: a burst of a second is not saturation."""
RATE_MEMORY_S = 20.0
"""Time constant of the measured rate."""


class WorkRate:
    """Seconds of work started per second while requests wait, as a decayed mean."""

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
        """The rate. Before anything was measured it is one per serving group."""
        prior_s = 1.0
        return (self._work_s + prior_s * max(1, groups_serving)) / (self._busy_s + prior_s)


class Saturation:
    """The smoothed value and the mark of one model's self-hosted placements."""

    def __init__(self) -> None:
        self.value = 0.0
        self.marked = False
        self._at_s = 0.0
        self._changed_s = -math.inf

    def observe(self, wait_share: float, now: float) -> None:
        """Records the present ratio of predicted wait to promised time to first token."""
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
    """The saturation shown to operators: the ratio of wait to promised time to first token, as a
    mean over the queued requests, weighted by their work.

    `arrival_share`: the ratio for a new request (`Saturation.value`), the lower bound for each
    queued one; `waiting`: work and ratio of each queued request. The ratio counts the time already
    waited and, for a late request, the predicted rest.
    """
    work_s = weighted_s = 0.0
    for its_work_s, share in waiting:
        work_s += its_work_s
        weighted_s += its_work_s * max(arrival_share, share)
    return weighted_s / work_s if work_s else arrival_share
