"""Distinct experts of a step, learnt from steps of which the engine tells them.

Trained routers prefer some experts, and tokens of like text agree, so that real steps touch fewer
experts than independent, uniform choices would. A few sorts of experts stand for all of them:

    D(x) = E sum_j w_j (1 - (1 - p_j)^x)        sum_j w_j = 1, sum_j w_j p_j = k / E

A share w_j of the experts is taken by a token with chance p_j. The chances are fixed: k/E, its
multiples by powers of two, never and always. The shares are fitted, none below 0, to the mean
distinct experts by number of tokens, and held weakly to the uniform law, which has k/E alone. One
token touches k experts under every such law. D never leaves 0 to E and never falls, so that it may
be used beyond the batches that occurred.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from scheduler.engine_steps import ExpertStep
from scheduler.step_time.step_model import ExpertLaw, FloatArray

EXACT_TOKENS = 32
"""Steps of more tokens are put together in classes that are about 6 % wide."""
CLASSES_PER_E = 16
MOST_CLASSES = 256
FULL_STEPS = 100.0
"""Steps of one size above which they get no more weight."""
KEPT_STEPS = 1000.0
"""Steps of one size that a mean reaches back: routing follows what people ask."""
UNIFORM_WEIGHT = 0.001
"""Weight of the uniform law at each of a few sizes, where a fully known size has 1."""
ENOUGH_STEPS = 20
"""Steps of two tokens or more from which on the law is used."""
CLOSE = 0.003
"""How much the mean relative miss of the law may grow before it is fitted again."""
MORE = 1.25
"""Factor by which the known sizes must weigh more before it is fitted again."""
RAREST = 4.0
"""The rarest sort that is ever taken has the chance k/E over this."""
LEAST_GAIN = 1e-7
"""Descent below which another sort does not help."""
_EXACT = 30.0
"""Weight of the two sums that the law has to keep."""


class ExpertCounts:
    """Mean distinct experts by number of tokens, of one group, and the law that fits them."""

    def __init__(self, experts: int, experts_per_token: int) -> None:
        self.experts = experts
        self.experts_per_token = experts_per_token
        self.law: ExpertLaw | None = None
        """None: too little is known."""
        self._classes: dict[int, _Class] = {}
        self._steps = 0
        self._weight = self._miss = 0.0
        """Weight of the known sizes when the law was fitted, and how much it missed them by."""

    def observe(self, steps: Iterable[ExpertStep]) -> bool:
        """Learns from steps; returns whether the law has changed. Prompts choose otherwise than
        answers do, and their steps are left out."""
        for step in steps:
            if step.prefill_tokens or step.tokens < 2 or not self._can_be(step):
                continue
            name = _class_of(step.tokens)
            if name not in self._classes and len(self._classes) == MOST_CLASSES:
                continue
            self._classes.setdefault(name, _Class()).add(step)
            self._steps += 1
        if self._steps < ENOUGH_STEPS:
            return False
        weight = sum(one.weight for one in self._classes.values())
        law, close = self.law, self._miss + CLOSE
        if law and weight < MORE * self._weight and self._missed(law, weight) <= close:
            return False
        self.law = self._fitted()
        self._weight, self._miss = weight, self._missed(self.law, weight)
        return True

    def _can_be(self, step: ExpertStep) -> bool:
        """Whether so many tokens can touch so many experts."""
        most = min(self.experts, step.tokens * self.experts_per_token)
        return self.experts_per_token - 0.01 <= step.distinct <= most + 0.01

    def _missed(self, law: ExpertLaw, weight: float) -> float:
        """Mean relative miss of a law. `weight`: of the known sizes together."""
        misses = (
            one.weight * abs(self.experts * law.touched(one.tokens) / one.distinct - 1.0)
            for one in self._classes.values()
        )
        return sum(misses) / weight

    def _fitted(self) -> ExpertLaw:
        even = self.experts_per_token / self.experts
        chances = _sorts(even)
        known = list(self._classes.values())
        # The law is held to the uniform one up to where that touches all experts.
        sizes = 2.0 ** np.arange(1, 4 + math.ceil(-math.log2(even)))
        tokens = np.array([*(one.tokens for one in known), *sizes])
        shares = np.array([one.distinct / self.experts for one in known])
        shares = np.append(shares, 1.0 - (1.0 - even) ** sizes)
        weights = np.array([*(one.weight for one in known), *(UNIFORM_WEIGHT for _ in sizes)])
        touched = 1.0 - (1.0 - chances) ** tokens[:, None]
        relative = np.sqrt(weights)[:, None] * touched / shares[:, None]
        rows = np.vstack([relative, np.full(len(chances), _EXACT), _EXACT * chances / even])
        wanted = np.concatenate([np.sqrt(weights), [_EXACT, _EXACT]])
        found = _not_negative(rows, wanted)
        found /= found.sum()
        return ExpertLaw(
            tuple((float(w), float(p)) for w, p in zip(found, chances, strict=True) if w > 0.0)
        )


class _Class:
    """Steps of about one number of tokens."""

    __slots__ = ("distinct", "steps", "tokens")

    def __init__(self) -> None:
        self.tokens = self.distinct = self.steps = 0.0

    @property
    def weight(self) -> float:
        return min(1.0, self.steps / FULL_STEPS)

    def add(self, step: ExpertStep) -> None:
        self.steps = min(KEPT_STEPS, self.steps + 1.0)
        self.tokens += (step.tokens - self.tokens) / self.steps
        self.distinct += (step.distinct - self.distinct) / self.steps


def _class_of(tokens: int) -> int:
    if tokens <= EXACT_TOKENS:
        return tokens
    return EXACT_TOKENS + round(CLASSES_PER_E * math.log(tokens / EXACT_TOKENS))


def _sorts(even: float) -> FloatArray:
    """The chances of the sorts, from never to always."""
    powers = even / RAREST * 2.0 ** np.arange(0, 40)
    return np.concatenate([[0.0], powers[powers < 1.0], [1.0]])


def _not_negative(rows: FloatArray, wanted: FloatArray) -> FloatArray:
    """Least squares of rows @ x = wanted with no part of x below 0 (Lawson and Hanson)."""
    size = rows.shape[1]
    found = np.zeros(size)
    used = np.zeros(size, dtype=bool)
    for _ in range(3 * size):
        gain = np.where(used, -np.inf, rows.T @ (wanted - rows @ found))
        best = int(gain.argmax())
        if gain[best] <= LEAST_GAIN:
            break
        used[best] = True
        while True:
            tried = np.zeros(size)
            tried[used] = np.linalg.lstsq(rows[:, used], wanted, rcond=None)[0]
            negative = used & (tried <= 0.0)
            if not negative.any():
                break
            # As far as the first part that reaches 0, which leaves.
            step = (found[negative] / (found[negative] - tried[negative])).min()
            found = found + step * (tried - found)
            used &= found > 1e-12
            found[~used] = 0.0
        found = tried
    return found
