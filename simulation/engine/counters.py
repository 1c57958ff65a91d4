"""Counters of a simulated engine, the figures behind vLLM's metrics.

Bucket bounds are those of vLLM 0.32 (tests/golden/vllm_0_32/metrics.txt). Times are in seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from simulation.output import FinishReason

TTFT_BOUNDS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0),
)
TOKEN_BOUNDS_S = (
    *(0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5),
    *(10.0, 20.0, 40.0, 80.0),
)
REQUEST_BOUNDS_S = (
    *(0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0),
)
STEP_BOUNDS_TOKENS = (1.0, *(float(2**power) for power in range(3, 15)))


def length_bounds_tokens(most_tokens: int) -> tuple[float, ...]:
    """1, 2, 5, 10, ... up to `most_tokens`."""
    bounds: list[float] = []
    decade = 1
    while decade <= most_tokens:
        bounds += (float(digit * decade) for digit in (1, 2, 5) if digit * decade <= most_tokens)
        decade *= 10
    return tuple(bounds)


class Histogram:
    """Counts of observations by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        """Per bucket, not cumulated; the last is above every bound."""
        self.total = 0.0

    def observe(self, value: float, count: int = 1) -> None:
        """Counts `count` observations of a value; a bound includes its own value."""
        self.counts[bisect_left(self.bounds, value)] += count
        self.total += value * count

    @property
    def count(self) -> int:
        """Observations so far."""
        return sum(self.counts)

    def add(self, other: Histogram) -> None:
        """Adds the counts of another histogram with the same bounds."""
        self.counts = [a + b for a, b in zip(self.counts, other.counts, strict=True)]
        self.total += other.total


@dataclass(slots=True, kw_only=True)
class EngineCounters:
    """Counts of a rank since it began. A choice is a request of its own here, as in vLLM.

    Attributes:
        prompt_tokens, prompt_tokens_cached: of prompts whose prefill has ended.
        generation_tokens: output tokens.
        cache_queries_tokens, cache_hits_tokens: prompts looked up in the prefix cache.
        preemptions: sequences put back for want of blocks.
        finished: ended sequences, by reason.
        added: sequences taken in.
    """

    longest_tokens: int
    added: int = 0
    prompt_tokens: int = 0
    prompt_tokens_cached: int = 0
    generation_tokens: int = 0
    cache_queries_tokens: int = 0
    cache_hits_tokens: int = 0
    preemptions: int = 0
    finished: dict[FinishReason, int] = field(
        default_factory=lambda: dict.fromkeys(FinishReason, 0)
    )
    ttft_s: Histogram = field(default_factory=lambda: Histogram(TTFT_BOUNDS_S))
    inter_token_s: Histogram = field(default_factory=lambda: Histogram(TOKEN_BOUNDS_S))
    tpot_s: Histogram = field(default_factory=lambda: Histogram(TOKEN_BOUNDS_S))
    e2e_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    queue_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    inference_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    prefill_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    decode_s: Histogram = field(default_factory=lambda: Histogram(REQUEST_BOUNDS_S))
    step_tokens: Histogram = field(default_factory=lambda: Histogram(STEP_BOUNDS_TOKENS))
    request_prompt_tokens: Histogram = field(init=False)
    request_generation_tokens: Histogram = field(init=False)

    def __post_init__(self) -> None:
        bounds = length_bounds_tokens(self.longest_tokens)
        self.request_prompt_tokens = Histogram(bounds)
        self.request_generation_tokens = Histogram(bounds)

    def add(self, other: EngineCounters) -> None:
        """Adds the counters of another rank of the engine."""
        for each in fields(self):
            mine, its = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Histogram):
                mine.add(its)
            elif isinstance(mine, dict):
                for reason, count in its.items():
                    mine[reason] += count
            elif each.name != "longest_tokens":
                setattr(self, each.name, mine + its)
