"""Demand: mean lengths, and the variation of the request rate from window to window."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from scheduler.step_time.step_model import FloatArray
from simulation.planner.operating import Lengths
from simulation.traces import MOONCAKE_BLOCK_TOKENS, TraceRow

WINDOW_S = 60.0
"""The queue absorbs shorter bursts; longer ones need capacity."""
DRAWN_WINDOWS = 4000


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """A workload.

    Attributes:
        lengths: means over the requests.
        rates: requests per second in each window, as they came or as they were drawn.
        window_s: length of a window.
    """

    lengths: Lengths
    rates: FloatArray
    window_s: float

    @property
    def mean_rate(self) -> float:
        """Requests per second."""
        return float(self.rates.mean())

    @property
    def peak_to_mean(self) -> float:
        """Rate of the busiest window divided by the mean rate."""
        return float(self.rates.max() / self.rates.mean())

    def at_mean_rate(self, requests_per_s: float) -> Demand:
        """Returns the same demand shape with another mean."""
        scale = requests_per_s / self.mean_rate
        return Demand(lengths=self.lengths, rates=self.rates * scale, window_s=self.window_s)


def drawn_demand(lengths: Lengths, requests_per_s: float, cv: float, seed: int) -> Demand:
    """Gamma distributed rates with coefficient of variation `cv` between windows; 0: constant."""
    if cv <= 0:
        rates = np.full(1, requests_per_s)
    else:
        shape = 1.0 / cv**2
        drawn = np.random.default_rng(seed).gamma(shape, 1.0 / shape, DRAWN_WINDOWS)
        rates = drawn * requests_per_s / drawn.mean()
    return Demand(lengths=lengths, rates=rates, window_s=WINDOW_S)


def demand_of(rows: Sequence[TraceRow], window_s: float = WINDOW_S) -> Demand:
    """Demand of a trace; prefixes that any request had before count as cached.

    Raises ValueError where the trace is shorter than two windows.
    """
    span_s = rows[-1].at_s - rows[0].at_s if rows else 0.0
    windows = int(span_s // window_s)
    if windows < 2:
        raise ValueError(
            f"the trace spans {span_s:.0f} s: two windows of {window_s:g} s are needed"
        )
    times = np.array([row.at_s - rows[0].at_s for row in rows])
    # An incomplete last window would count as a low rate.
    counts, _ = np.histogram(times, bins=windows, range=(0.0, windows * window_s))
    return Demand(lengths=mean_lengths(rows), rates=counts / window_s, window_s=window_s)


def mean_lengths(rows: Sequence[TraceRow]) -> Lengths:
    """Means over the rows of a trace."""
    return Lengths(
        prompt_tokens=float(np.mean([row.prompt_tokens for row in rows])),
        cached_tokens=float(np.mean(cached_tokens(rows))),
        output_tokens=float(np.mean([row.output_tokens for row in rows])),
    )


def cached_tokens(rows: Iterable[TraceRow], block_tokens: int = MOONCAKE_BLOCK_TOKENS) -> list[int]:
    """Tokens of each prompt that an unbounded prefix cache would have."""
    seen: set[int] = set()
    found = []
    for row in rows:
        blocks = 0
        for block in row.content[: row.prompt_tokens // block_tokens]:
            if block not in seen:
                break
            blocks += 1
        seen.update(row.content)
        found.append(min(blocks * block_tokens, row.prompt_tokens - 1))
    return found
