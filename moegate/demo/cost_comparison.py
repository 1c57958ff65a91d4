"""Compares the cost of the run with the cost of the same requests in other setups."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from moegate.demo.client_results import Outcome, RequestResult
from simulation.workloads import PlannedRequest

PEAK_WINDOW_S = 10.0
"""Peak demand is that of the busiest such window; the queue absorbs shorter peaks."""
MILLION = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class RemotePrice:
    """US dollars per million tokens."""

    input: Decimal
    cached_input: Decimal
    output: Decimal

    def usd(self, ended: RequestResult) -> float:
        """List price of a request's tokens."""
        uncached = ended.prompt_tokens - ended.cached_tokens
        total = (
            uncached * self.input
            + ended.cached_tokens * self.cached_input
            + ended.output_tokens * self.output
        )
        return float(total / MILLION)


@dataclass(frozen=True, slots=True, kw_only=True)
class CostComparison:
    """Cost of three setups that serve the completed requests, US dollars.

    `ours_remote_usd`: None if the price of a remote answer is unknown. `peak_replicas`: replicas
    that carry the peak demand without a remote, at the best observed rate of a replica.
    """

    ours_gpu_usd: float
    ours_remote_usd: float | None
    all_remote_usd: float
    peak_replicas: int
    peak_usd: float

    @property
    def ours_usd(self) -> float | None:
        """Self-hosted GPUs and remote together."""
        if self.ours_remote_usd is None:
            return None
        return self.ours_gpu_usd + self.ours_remote_usd


def compare_costs(
    *,
    complete: Sequence[RequestResult],
    planned: Sequence[PlannedRequest],
    price: RemotePrice,
    replicas: int,
    usd_per_replica_hour: float,
    best_tokens_per_s: float,
    load_s: float,
) -> CostComparison:
    """Makes the comparison.

    `best_tokens_per_s`: best observed rate of one replica; `load_s`: paid time of the GPUs.
    """
    remote = [ended.nano_usd for ended in complete if ended.outcome is Outcome.OK_REMOTE]
    known = [cost for cost in remote if cost is not None]
    hours = load_s / 3600.0
    needed = replicas
    if best_tokens_per_s > 0:
        needed = max(replicas, math.ceil(peak_tokens_per_s(planned) / best_tokens_per_s))
    return CostComparison(
        ours_gpu_usd=replicas * usd_per_replica_hour * hours,
        ours_remote_usd=sum(known) / 1e9 if len(known) == len(remote) else None,
        all_remote_usd=sum(price.usd(ended) for ended in complete),
        peak_replicas=needed,
        peak_usd=needed * usd_per_replica_hour * hours,
    )


def peak_tokens_per_s(planned: Sequence[PlannedRequest]) -> float:
    """Output tokens per second that the arrivals of the busiest `PEAK_WINDOW_S` request."""
    most, tokens, first = 0, 0, 0
    for request in planned:
        tokens += request.output_tokens
        while planned[first].at_s <= request.at_s - PEAK_WINDOW_S:
            tokens -= planned[first].output_tokens
            first += 1
        most = max(most, tokens)
    return most / PEAK_WINDOW_S
