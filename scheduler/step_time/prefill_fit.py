"""The online fit of P(u) = p0 + p1 u + p2 u (2 m - u), the time of prompt tokens (`step_model.py`).

Counters of a second mix prefills with the steps that they share, so prefills are learnt from what
tells them: from dispatch to first token of own requests, and from single steps that computed
prompts. Each sample is a time, of which the fitted decode steps and experts are taken off; the rest
is y = d + f1 (p1 u) + f2 (p2 u (2 m - u)) with the terms of the prior.

Samples count by the noise of what was taken off; they fade, and one that is far off counts little,
because its prefix was cached otherwise than predicted. Until samples contradict, both factors are
the one that the decode terms have in common (a server that is twice as slow is so in all parts),
and d is p0 of the prior.

A sample comes with every request, and three unknowns are few: the sums and the solution are plain
numbers, because numpy takes several times as long for them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scheduler.step_time.prefill_samples import PrefillSample
from scheduler.step_time.step_model import StepModel

FADE_S = 180.0
"""Time in which the weight of a sample falls to 1/e."""
LONGEST_FADE_S = 60.0
"""Of a pause without samples, what counts as time that passed: what was learnt stays."""
LEAST_NOISE = 0.05
"""Relative noise of a sample."""
FACTOR_SPREAD = 1.0
"""Deviation by which a factor may be expected to differ from the common one."""
CONSTANT_SPREAD_S = 0.005
"""The same of p0, in seconds: what lies between a gateway and an engine is in it, too."""
FAR = 1.0
"""Relative miss at which a sample counts half."""
LEAST_FACTOR = 0.02
"""No prompt token is free."""
_RIDGE = (CONSTANT_SPREAD_S**-2, FACTOR_SPREAD**-2, FACTOR_SPREAD**-2)
_LEAST = (0.0, LEAST_FACTOR, LEAST_FACTOR)
_TERMS = range(3)
JUMP = 0.3
"""Mean signed miss of recent samples above which the engine has changed."""
CLEAR = 4.0
"""Of the noise, what a sample must exceed, or exceed the prediction by, to tell of a change. Small
prompts vanish in the noise, and those whose noise is upward would look like one."""
JUMP_WEIGHT = 0.2
JUMP_KEEPS = 0.1
FEWEST_SAMPLES = 5


class PrefillFit:
    """Fits p0, p1 and p2 of one group."""

    def __init__(self, prior: StepModel) -> None:
        self._constant_s = prior.prefill_s
        self._square = [[0.0] * 3 for _ in _TERMS]
        self._moment = [0.0] * 3
        self._common = 1.0
        self._seen_s: float | None = None
        self._drift = 0.0
        self._since_jump = 0
        self.samples = 0
        self.constant_s = prior.prefill_s
        self.tokens = 1.0
        """Factors on p1 and p2 of the prior."""
        self.context = 1.0

    def observe(self, sample: PrefillSample) -> None:
        """Learns from a sample, which counts by its age as if it had come at once."""
        left = self._fade(sample.at_s)
        predicted_s = self.seconds(sample.prompts, sample.tokens_s, sample.context_s)
        noise_s = math.hypot(sample.noise_s, LEAST_NOISE * max(predicted_s, sample.took_s))
        if noise_s <= 0.0:
            return
        miss = (sample.took_s - predicted_s) / max(predicted_s, noise_s, 1e-9)
        clear = max(predicted_s, sample.took_s - predicted_s) > CLEAR * noise_s
        self._follow(miss, left * clear)
        weight = left * sample.weight / noise_s**2
        if not sample.sure:
            weight /= 1.0 + (miss / FAR) ** 2
        terms = (sample.prompts, sample.tokens_s, sample.context_s)
        for i, row in enumerate(self._square):
            weighed = weight * terms[i]
            for j in _TERMS:
                row[j] += weighed * terms[j]
            self._moment[i] += weighed * sample.took_s
        self.samples += 1
        self._solve()

    def follow(self, common: float) -> None:
        """Takes the factor that the decode terms have in common."""
        if abs(common - self._common) > 0.01 * self._common:
            self._common = common
            self._solve()

    def seconds(self, prompts: float, tokens_s: float, context_s: float) -> float:
        """Predicted seconds of prompts whose terms under the prior are these."""
        return prompts * self.constant_s + tokens_s * self.tokens + context_s * self.context

    def _fade(self, at_s: float) -> float:
        """Fades what was learnt before `at_s`; returns what is left of a sample of that time."""
        seen_s, self._seen_s = self._seen_s, at_s
        if seen_s is None:
            return 1.0
        if at_s < seen_s:
            self._seen_s = seen_s
            return math.exp((at_s - seen_s) / FADE_S)
        self._keep(math.exp(-min(LONGEST_FADE_S, at_s - seen_s) / FADE_S))
        return 1.0

    def _keep(self, share: float) -> None:
        """Keeps a share of what was learnt."""
        self._square = [[share * one for one in row] for row in self._square]
        self._moment = [share * one for one in self._moment]

    def _follow(self, miss: float, tells: float) -> None:
        """Forgets older samples when all recent ones miss to one side. `tells`: weight, 0 to 1."""
        if not tells:
            return
        self._drift += JUMP_WEIGHT * tells * (min(1.0, max(-1.0, miss)) - self._drift)
        self._since_jump += 1
        if abs(self._drift) > JUMP and self._since_jump >= FEWEST_SAMPLES:
            self._keep(JUMP_KEEPS)
            self._drift = 0.0
            self._since_jump = 0

    def _solve(self) -> None:
        """Least squares with a ridge to what is expected, and nothing below its least."""
        expected = (self._constant_s, self._common, self._common)
        rows = [list(row) for row in self._square]
        vector = list(self._moment)
        for i, ridge in enumerate(_RIDGE):
            rows[i][i] += ridge
            vector[i] += ridge * expected[i]
        found = solve(rows, vector)
        for _ in _TERMS:
            below = [i for i in _TERMS if found[i] < _LEAST[i]]
            if not below:
                break
            _hold_least(rows, vector, below)
            found = solve(rows, vector)
        self.constant_s, self.tokens, self.context = found


def _hold_least(rows: list[list[float]], vector: list[float], held: Sequence[int]) -> None:
    """Makes the equations say that these unknowns have their least values."""
    for i in _TERMS:
        if i in held:
            rows[i], vector[i] = [float(i == j) for j in _TERMS], _LEAST[i]
            continue
        vector[i] -= sum(rows[i][j] * _LEAST[j] for j in held)
        for j in held:
            rows[i][j] = 0.0


def solve(rows: Sequence[Sequence[float]], vector: Sequence[float]) -> tuple[float, float, float]:
    """The x of `rows` x = `vector`, three unknowns; `rows` is symmetric and positive definite."""
    (a, b, c), (d, e, f), (g, h, i) = rows
    x, y, z = vector
    by = d / a
    e, f, y = e - by * b, f - by * c, y - by * x
    by = g / a
    h, i, z = h - by * b, i - by * c, z - by * x
    by = h / e
    i, z = i - by * f, z - by * y
    third = z / i
    second = (y - f * third) / e
    return (x - (b * second + c * third)) / a, second, third
