"""How far predicted times to the first token were off, and the margin that follows.

A limit that is compared with a noisy prediction is missed by every second request that just fits.
So the limit is lowered by the error that nine of ten predictions keep, and by a share of itself at
least. The quantile is followed by small steps (Robbins and Monro): up where an error exceeds it,
down by a ninth of that where not.
"""

from __future__ import annotations

import math

QUANTILE = 0.9
STEP = 0.1
"""Size of a step, in mean errors."""
MEAN_WEIGHT = 0.05
MOST_SHARE = 0.25
"""Most of a limit that errors take off."""
RATIO_STEP = 0.01
"""Step of the logarithm of `TypicalRatio`, up or down."""
MOST_RATIO = 2.0
_MOST_LOG = math.log(MOST_RATIO)


class TypicalRatio:
    """The median of outcomes over predictions, followed by small steps."""

    __slots__ = ("_log",)

    def __init__(self) -> None:
        self._log = 0.0

    def observe(self, predicted_s: float, seen_s: float) -> None:
        """Records an outcome."""
        up = seen_s > predicted_s * self.ratio
        log = self._log + (RATIO_STEP if up else -RATIO_STEP)
        self._log = max(-_MOST_LOG, min(_MOST_LOG, log))

    @property
    def ratio(self) -> float:
        """Within 1 / MOST_RATIO and MOST_RATIO; 1 at first."""
        return math.exp(self._log)


class PredictionErrors:
    """Errors of one model's predictions, on all its self-hosted placements."""

    __slots__ = ("_alone", "_behind", "_mean_s", "late_s")

    def __init__(self) -> None:
        self._mean_s = 0.0
        self.late_s = 0.0
        """Seconds by which one prediction in ten was exceeded; 0: none was seen."""
        self._alone = TypicalRatio()
        self._behind = TypicalRatio()

    def typical(self, *, behind: bool) -> TypicalRatio:
        """The ratio of first tokens to what they would be without prompts that come later, of
        prompts `behind` others or of those behind none."""
        return self._behind if behind else self._alone

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
