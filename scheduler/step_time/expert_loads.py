"""How unevenly the experts' work falls on the ranks of expert parallelism.

All ranks wait in every layer for the one with the most work. A single step is uneven by chance, and
a larger batch evens that out; what stays over many steps is skew: popular experts on one rank.
"""

from __future__ import annotations

from collections.abc import Iterable

from scheduler.engine_steps import ExpertStep

KEPT_STEPS = 2000.0
"""Steps that the mean reaches back."""
FEWEST_CHOICES = 1000.0
"""Choices of experts from which on the skew is told: of fewer, chance is too large a part."""


class ExpertLoads:
    """Choices of experts by rank, over the last steps of a group."""

    def __init__(self) -> None:
        self._choices: list[float] = []
        self._seen = 0.0

    def observe(self, steps: Iterable[ExpertStep]) -> None:
        """Adds steps. Another number of ranks begins anew."""
        for step in steps:
            if len(step.load) < 2:
                continue
            if len(step.load) != len(self._choices):
                self._choices, self._seen = [0.0] * len(step.load), 0.0
            keep = 1.0 - 1.0 / KEPT_STEPS
            self._choices = [
                keep * before + now for before, now in zip(self._choices, step.load, strict=True)
            ]
            self._seen += sum(step.load)

    @property
    def imbalance(self) -> float | None:
        """Choices of the busiest rank over those of a mean one, 1 or more; None: unknown."""
        mean = sum(self._choices) / len(self._choices) if self._choices else 0.0
        if self._seen < FEWEST_CHOICES or mean <= 0.0:
            return None
        return max(self._choices) / mean

    @property
    def busiest_rank(self) -> int | None:
        """Expert-parallel rank that the others wait for; None: unknown."""
        if self.imbalance is None:
            return None
        return max(range(len(self._choices)), key=self._choices.__getitem__)
