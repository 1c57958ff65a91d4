"""Highest request rate of one replica within its service levels, and the bound that limits it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from scheduler.step_time.step_model import StepModel
from simulation.planner.operating import ROUNDS, Lengths, Operating, at_batch, at_rate

KV_RESERVE = 0.1
"""Share of the KV cache that is kept free, so that no sequence has to be put back."""


class Bound(enum.StrEnum):
    """Limit that a replica reaches first."""

    TPOT = "time per output token"
    TTFT = "time to first token"
    KV = "KV cache"
    SEQUENCES = "sequences at once"
    NOTHING_FITS = "not even one request"


@dataclass(frozen=True, slots=True, kw_only=True)
class Replica:
    """One replica, as it is planned.

    Attributes:
        model: its step model.
        kv_capacity_tokens: KV tokens of all its ranks.
        most_sequences: most sequences at once (--max-num-seqs times its ranks).
        usd_per_hour: of all its GPUs; None: unknown.
    """

    model: StepModel
    kv_capacity_tokens: int
    most_sequences: int
    usd_per_hour: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Slo:
    """Service levels, seconds."""

    ttft_s: float
    tpot_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """The most that a replica sustains; `state` is None where not even one request fits."""

    state: Operating | None
    bound: Bound

    @property
    def requests_per_s(self) -> float:
        """0 where nothing fits."""
        return 0.0 if self.state is None else self.state.requests_per_s


def capacity(replica: Replica, lengths: Lengths, slo: Slo | None) -> Capacity:
    """The highest rate within `slo` (None: whatever it takes), the KV cache and the slots."""
    longest = lengths.prompt_tokens + lengths.output_tokens
    room = replica.kv_capacity_tokens * (1.0 - KV_RESERVE)
    if longest > room:
        return Capacity(state=None, bound=Bound.NOTHING_FITS)
    by_memory = int(room / lengths.resident_tokens)
    most = max(1, min(by_memory, replica.most_sequences))
    full = at_batch(replica.model, lengths, most)
    if slo is None or _broken(full, slo) is None:
        bound = Bound.KV if by_memory < replica.most_sequences else Bound.SEQUENCES
        return Capacity(state=full, bound=bound)
    # Both times grow with the rate, so the highest rate lies where one reaches its limit.
    low, high = 0.0, full.requests_per_s
    best: Operating | None = None
    bound = Bound.NOTHING_FITS
    for _ in range(ROUNDS):
        middle = (low + high) / 2.0
        state = at_rate(replica.model, lengths, middle, most)
        assert state is not None  # below the rate of the largest batch
        broken = _broken(state, slo)
        if broken is None:
            low, best = middle, state
        else:
            high, bound = middle, broken
    if best is None:
        return Capacity(state=None, bound=Bound.NOTHING_FITS)
    return Capacity(state=best, bound=bound)


def _broken(state: Operating, slo: Slo) -> Bound | None:
    if state.tpot_s > slo.tpot_s:
        return Bound.TPOT
    return Bound.TTFT if state.ttft_s > slo.ttft_s else None
