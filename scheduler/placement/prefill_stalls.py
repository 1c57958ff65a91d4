"""How much longer answers take because their engine computes prompts between their tokens.

The stretch of an engine is the time of its answers' tokens over that of the same steps without
prompts, a mean over tokens. Where prompts are long and few, most answers meet fewer stalls than the
mean; `typical_stretch` is what an answer should be told.
"""

from __future__ import annotations

import math

FORGET_S = 15.0
"""Time in which tokens are forgotten to 1/e at the latest."""
KEPT_S = 2000.0
"""Decode seconds of sequences that are kept at most: the more there are, the newer they may be."""
POOL_S = 2000.0
"""Decode seconds of the pool's sequences that count beside a group's own: a group has seen too few
prompts to tell how many will come, and the next ones may go to any group."""
CALM_S = 5.0
"""Decode seconds without prompts that count beside all that was seen."""
PROMPT_WEIGHT = 1.0 / 256.0
"""Weight of a new prompt in the means over prompts."""
DEVIATIONS = 0.3
"""Standard deviations above the median at which an answer is told its stalls: the median alone has
the least error at p50, and a larger one at p90 where stalls are long."""


class PrefillStalls:
    """Recent tokens of answers, and the prefills among them, of a group or of a pool."""

    __slots__ = ("_at_s", "_decode_s", "_gaps_s", "_prefill_s", "_squares")

    def __init__(self) -> None:
        self._at_s = 0.0
        self._decode_s = self._gaps_s = 0.0
        self._prefill_s = self._squares = 0.0

    def observe(self, decode_s: float, gaps_s: float, now: float) -> None:
        """Adds times between tokens, `gaps_s` in all, of steps that take `decode_s` without
        prompts."""
        kept = math.exp(min(0.0, self._at_s - now) / FORGET_S - decode_s / KEPT_S)
        self._at_s = max(now, self._at_s)
        self._decode_s = kept * self._decode_s + decode_s
        self._gaps_s = kept * self._gaps_s + gaps_s

    def prompt_sent(self, prefill_s: float) -> None:
        """Adds a prefill."""
        self._prefill_s += PROMPT_WEIGHT * (prefill_s - self._prefill_s)
        self._squares += PROMPT_WEIGHT * (prefill_s * prefill_s - self._squares)

    @property
    def stall_s(self) -> float:
        """Mean stall, weighted by its own seconds; 0: no prefill was seen."""
        return self._squares / self._prefill_s if self._prefill_s > 0.0 else 0.0

    def stretch(self, pool: PrefillStalls) -> float:
        """Mean time per token over that of steps without prompts, of a group of `pool`."""
        alike = (pool._gaps_s + CALM_S) / (pool._decode_s + CALM_S)
        return (self._gaps_s + POOL_S * alike) / (self._decode_s + POOL_S)


def typical_stretch(mean: float, answer_s: float, stall_s: float) -> float:
    """The stretch of a typical answer that decodes for `answer_s`, where `mean` is that of all.

    It meets a Poisson number of stalls of about `stall_s`. Their sum is taken for a gamma variable,
    and its quantile is the one of Wilson and Hilferty.
    """
    if stall_s <= 0.0 or answer_s <= 0.0 or mean <= 1.0:
        return mean
    stalls = (mean - 1.0) * answer_s / stall_s
    root = 1.0 - 1.0 / (9.0 * stalls) + DEVIATIONS / (3.0 * math.sqrt(stalls))
    return 1.0 + (mean - 1.0) * max(0.0, root) ** 3
