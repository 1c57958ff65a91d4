"""What the same requests would have cost elsewhere: pure sums over what clients and engines saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from moegate.demo.tally import Ended, Outcome
from simulation.workloads import PlannedRequest

PEAK_WINDOW_S = 10.0
"""Demand is the busiest of such windows: a queue evens out what is shorter."""
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePrice:
    """US dollars per million tokens."""

    input: Decimal
    cached_input: Decimal
    output: Decimal

    def usd(self, ended: Ended) -> float:
        """List price of a request's tokens."""
        uncached = ended.prompt_tokens - ended.cached_tokens
        total = (
            uncached * self.input
            + ended.cached_tokens * self.cached_input
            + ended.output_tokens * self.output
        )
        return float(total / MILLION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bills:
    """Three ways to serve the complete requests, US dollars.

    `ours_remote_usd`: None while a remote answer has no known price; `peak_replicas`: as many as
    carry the busiest seconds without a remote, at the best rate that a replica was seen to make.
    """

    ours_gpu_usd: float
    ours_remote_usd: float | None
    all_remote_usd: float
    peak_replicas: int
    peak_usd: float

    @property
    def ours_usd(self) -> float | None:
        """Own GPUs and remote together."""
        if self.ours_remote_usd is None:
            return None
        return self.ours_gpu_usd + self.ours_remote_usd


def bills(
    *,
    complete: Sequence[Ended],
    planned: Sequence[PlannedRequest],
    price: RemotePrice,
    replicas: int,
    usd_per_replica_hour: float,
    best_tokens_per_s: float,
    load_s: float,
) -> Bills:
    """`best_tokens_per_s`: of one replica; `load_s`: how long the GPUs were paid for."""
    remote = [ended.nano_usd for ended in complete if ended.outcome is Outcome.OK_REMOTE]
    known = [cost for cost in remote if cost is not None]
    hours = load_s / 3600.0
    needed = replicas
    if best_tokens_per_s > 0:
        needed = max(replicas, math.ceil(peak_tokens_per_s(planned) / best_tokens_per_s))
    return Bills(
        ours_gpu_usd=replicas * usd_per_replica_hour * hours,
        ours_remote_usd=sum(known) / 1e9 if len(known) == len(remote) else None,
        all_remote_usd=sum(price.usd(ended) for ended in complete),
        peak_replicas=needed,
        peak_usd=needed * usd_per_replica_hour * hours,
    )


def peak_tokens_per_s(planned: Sequence[PlannedRequest]) -> float:
    """Output that the busiest `PEAK_WINDOW_S` of arrivals ask for, per second."""
    most, tokens, first = 0, 0, 0
    for request in planned:
        tokens += request.output_tokens
        while planned[first].at_s <= request.at_s - PEAK_WINDOW_S:
            tokens -= planned[first].output_tokens
            first += 1
        most = max(most, tokens)
    return most / PEAK_WINDOW_S
