"""How far predicted times to the first token were off, the margin that follows, and what prompts
that are sent later typically add.

A limit that is compared with a noisy prediction is missed by every second request that just fits.
So the limit is lowered by the error that nine of ten predictions keep, and by a share of itself at
least. The quantile is followed by small steps (Robbins and Monro): up where an error exceeds it,
down by a ninth of that where not.
"""

from __future__ import annotations

from scheduler.resident import FirstToken, Joins

QUANTILE = 0.9
STEP = 0.1
"""Size of a step, in mean errors."""
MEAN_WEIGHT = 0.05
MOST_SHARE = 0.25
"""Most of a limit that errors take off."""
UNITS_STEP = 0.01
"""Step of `LaterPrompts.units`, up or down."""
LEAST_UNITS, MOST_UNITS = -0.5, 2.0


class LaterPrompts:
    """The median of what outcomes add to predictions, in units, followed by small steps."""

    __slots__ = ("units",)

    def __init__(self) -> None:
        self.units = 0.0
        """Within LEAST_UNITS and MOST_UNITS."""

    def observe(self, added_s: float, unit_s: float) -> None:
        """Records what an outcome added."""
        if unit_s > 0.0:
            units = self.units + (UNITS_STEP if added_s > self.units * unit_s else -UNITS_STEP)
            self.units = max(LEAST_UNITS, min(MOST_UNITS, units))


class PredictionErrors:
    """Errors of one model's predictions, on all its self-hosted placements."""

    __slots__ = ("_later", "_mean_s", "late_s")

    def __init__(self) -> None:
        self._mean_s = 0.0
        self.late_s = 0.0
        """Seconds by which one prediction in ten was exceeded; 0: none was seen."""
        self._later = tuple(LaterPrompts() for _ in Joins)

    def typical_s(self, first: FirstToken) -> float:
        """Time to the first token with what prompts that are sent later typically add."""
        return first.alone_s + self._later[first.joins].units * first.unit_s

    def observe_typical(self, first: FirstToken, seen_s: float) -> None:
        """Records when a first token came."""
        self._later[first.joins].observe(seen_s - first.alone_s, first.unit_s)

    def observe(self, predicted_s: float, seen_s: float) -> None:
        """Records a first token."""
        error_s = seen_s - predicted_s
        self._mean_s += MEAN_WEIGHT * (abs(error_s) - self._mean_s)
        step_s = STEP * self._mean_s
        step_s *= QUANTILE if error_s > self.late_s else QUANTILE - 1.0
        self.late_s = max(0.0, self.late_s + step_s)

    def margin_s(self, limit_s: float, least_share: float) -> float:
        """What is taken off a limit. `least_share`: of the limit, the least."""
        return min(MOST_SHARE * limit_s, max(least_share * limit_s, self.late_s))
