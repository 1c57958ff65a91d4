"""Throughput converted to dollars per million tokens of one kind, on given GPUs.

The formula is $/M = price of the GPUs per second / tokens per second. Published figures differ in
which tokens they count and which GPUs they pay, so a rate here always states both. Rates that pay
the same GPUs twice, or leave some out, do not add up to the cost of a request.

    rate of one kind that pays all GPUs (aggregated): every kind carries the whole cost, so that
    1/c_total = 1/c_in + 1/c_out; the figures are alternatives, not parts.
    rate of a stage that pays its own GPUs (node share): prefill over input, decode over output;
    these add up, if both are there.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal

MILLION = 1_000_000


class RateKind(enum.StrEnum):
    """Which tokens a rate counts."""

    TOTAL = "total"
    INPUT = "input"
    """Read from a cache or computed."""
    UNCACHED_INPUT = "uncached_input"
    CACHED_INPUT = "cached_input"
    OUTPUT = "output"


class Stage(enum.StrEnum):
    """Which GPUs a rate pays."""

    ALL = "all"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRate:
    """Tokens per second of one kind, on `gpus` GPUs that do `stage`."""

    kind: RateKind
    stage: Stage
    tokens_per_s: Decimal
    gpus: int

    def nano_usd_per_mtok(self, nano_usd_per_gpu_hour: int) -> int:
        """What a million tokens of this kind cost on these GPUs, rounded half up."""
        per_hour = Decimal(nano_usd_per_gpu_hour) * self.gpus
        return int(
            (per_hour * MILLION / (3600 * self.tokens_per_s)).to_integral_value(ROUND_HALF_UP)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseLoad:
    """How much of its capacity each stage of a disaggregated pool uses, 0 to 1."""

    prefill: float
    decode: float


MOST_IMBALANCE = 2.0
"""Stages whose loads differ by more waste more than half of the emptier one's nodes."""
LEAST_LOAD = 0.05
"""Below this load a pool is idle, and its stages cannot be compared."""


def imbalance(load: PhaseLoad) -> str | None:
    """A message if the stages of a disaggregated pool are out of balance, else None."""
    low, high = sorted((load.prefill, load.decode))
    if high < LEAST_LOAD or high <= MOST_IMBALANCE * low:
        return None
    name = "decode" if load.decode < load.prefill else "prefill"
    other = "prefill" if name == "decode" else "decode"
    return (
        f"{name} nodes run at {low:.1%} of their capacity while {other} nodes run at {high:.0%}: "
        f"move nodes from {name} to {other}"
    )
