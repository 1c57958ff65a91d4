"""Steps that an engine takes as one, and how many of them have ended at a moment."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(slots=True)
class StepsUnderWay:
    """Steps under way from `begin_s`: step j of `steps` takes `first_s` + j `slope_s`.

    `kv_token_s`: of these, per KV token on the slowest rank.
    """

    begin_s: float
    steps: int
    first_s: float = 0.0
    slope_s: float = 0.0
    kv_token_s: float = 0.0

    def duration_s(self, steps: int) -> float:
        return steps * self.first_s + self.slope_s * (steps * (steps - 1) / 2)

    def steps_by(self, now: float) -> int:
        """Number of steps that have ended by `now`; the last step stays under way."""
        elapsed_s = now - self.begin_s
        if elapsed_s < self.first_s or self.steps == 1:
            return 0
        linear_s = self.first_s - self.slope_s / 2
        if self.slope_s > 1e-12 * self.first_s:
            root = math.sqrt(linear_s * linear_s + 2.0 * self.slope_s * elapsed_s)
            done = int((root - linear_s) / self.slope_s)
        else:
            done = int(elapsed_s / linear_s)
        done = min(done, self.steps - 1)
        while done < self.steps - 1 and self.duration_s(done + 1) <= elapsed_s:
            done += 1
        while self.duration_s(done) > elapsed_s:
            done -= 1
        return done
