"""Workloads: requests that look like a public chat trace, drawn from a seed.

Pure: the same `Workload` and seed give the same requests. `moegate/demo/load.py` replays them: it
converts lengths to text and waits for each arrival.

Figures of the Azure LLM inference trace of 2023, conversation part (AzurePublicDataset,
AzureLLMInferenceTrace_conv.csv; Patel et al., "Splitwise", ISCA 2024), measured over all its 19,366
requests in 3,502 s:

    prompt tokens    mean 1,154.7   median 1,020   p95 4,083   longest 14,050
    output tokens    mean   211.1   median   129   p95   451   longest  1,000
    interarrivals    CV 1.09; busiest 10 s are 1.8 times the mean rate

A lognormal is fixed by its median and mean: sigma = sqrt(2 ln(mean / median)), which gives 0.498
for prompts and 0.993 for outputs. The arrivals here are burstier than that hour (CV 1.5 and a
burst): one server group sees a smaller and less even part of the traffic than a whole region.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.contract import SloClass


@dataclass(frozen=True, slots=True, kw_only=True)
class LengthModel:
    """Lognormal lengths in tokens, cut at `longest_tokens`. `mean_tokens` > `median_tokens`."""

    median_tokens: float
    mean_tokens: float
    longest_tokens: int

    def draw(self, rng: np.random.Generator, count: int, scale: float) -> NDArray[np.int64]:
        """Lengths of `count` requests, each at least 1, in tokens times `scale`."""
        sigma = math.sqrt(2.0 * math.log(self.mean_tokens / self.median_tokens))
        lengths = rng.lognormal(math.log(self.median_tokens), sigma, count)
        scaled = np.minimum(lengths, self.longest_tokens) * scale
        return np.maximum(1, np.rint(scaled)).astype(np.int64)


AZURE_CONVERSATION_PROMPT = LengthModel(
    median_tokens=1020.0, mean_tokens=1154.7, longest_tokens=14_050
)
AZURE_CONVERSATION_OUTPUT = LengthModel(
    median_tokens=129.0, mean_tokens=211.1, longest_tokens=1_000
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Burst:
    """A phase with `factor` times the rate, seconds from the start."""

    start_s: float
    end_s: float
    factor: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Parameters of a workload.

    Attributes:
        duration_s: length of the arrivals.
        rate_per_s: arrivals per second outside the burst.
        interarrival_cv: coefficient of variation of the gamma interarrival times.
        burst: a busier phase, or None.
        prompt, output: lengths.
        length_scale: factor on both: 1 is the trace.
        tenants: how many; the i-th sends a share in proportion to 1 / i**zipf_exponent.
        prefix_share: part of a tenant's median prompt that all its requests begin with.
        class_shares: share of each class of service.
        local_only_share: share of requests that must stay on self-hosted servers.
        cancel_share: share of requests whose client hangs up half-way.
    """

    duration_s: float
    rate_per_s: float
    interarrival_cv: float = 1.5
    burst: Burst | None = None
    prompt: LengthModel = AZURE_CONVERSATION_PROMPT
    output: LengthModel = AZURE_CONVERSATION_OUTPUT
    length_scale: float = 1.0
    tenants: int = 8
    zipf_exponent: float = 1.1
    prefix_share: float = 0.3
    class_shares: tuple[tuple[SloClass, float], ...] = (
        (SloClass.INTERACTIVE, 0.6),
        (SloClass.STANDARD, 0.25),
        (SloClass.BATCH, 0.15),
    )
    local_only_share: float = 0.15
    cancel_share: float = 0.06


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRequest:
    """One request.

    `prompt_tokens` includes the `prefix_tokens` that it shares with its tenant's other requests;
    `cancel_after_tokens`: output after which its client hangs up, None if it stays.
    """

    index: int
    at_s: float
    tenant: int
    slo_class: SloClass
    prompt_tokens: int
    prefix_tokens: int
    output_tokens: int
    local_only: bool
    cancel_after_tokens: int | None


def plan(workload: Workload, seed: int) -> tuple[PlannedRequest, ...]:
    """Every request of the workload, by arrival."""
    rng = np.random.default_rng(seed)
    at_s = arrivals(workload, rng)
    count = len(at_s)
    prompts = workload.prompt.draw(rng, count, workload.length_scale)
    outputs = workload.output.draw(rng, count, workload.length_scale)
    ranks = np.arange(1, workload.tenants + 1, dtype=np.float64) ** -workload.zipf_exponent
    tenants = rng.choice(workload.tenants, size=count, p=ranks / ranks.sum())
    classes = [name for name, _ in workload.class_shares]
    shares = np.array([share for _, share in workload.class_shares])
    chosen = rng.choice(len(classes), size=count, p=shares / shares.sum())
    local_only = rng.random(count) < workload.local_only_share
    hangs_up = (rng.random(count) < workload.cancel_share) & (outputs >= 2)
    median_tokens = workload.prompt.median_tokens * workload.length_scale
    prefix_tokens = round(workload.prefix_share * median_tokens)
    return tuple(
        PlannedRequest(
            index=i,
            at_s=float(at_s[i]),
            tenant=int(tenants[i]),
            slo_class=classes[chosen[i]],
            prompt_tokens=int(prompts[i]),
            prefix_tokens=min(prefix_tokens, int(prompts[i]) - 1),
            output_tokens=int(outputs[i]),
            local_only=bool(local_only[i]),
            cancel_after_tokens=int(outputs[i]) // 2 if hangs_up[i] else None,
        )
        for i in range(count)
    )


def arrivals(workload: Workload, rng: np.random.Generator) -> NDArray[np.float64]:
    """Arrival times in seconds, rising, before `duration_s`.

    A gamma renewal process of unit rate, with its time stretched so that the rate is what the
    workload says at each moment: the coefficient of variation holds within every phase.
    """
    edges_s, rates = _phases(workload)
    expected = np.concatenate(([0.0], np.cumsum(np.diff(edges_s) * rates)))
    variance = workload.interarrival_cv**2
    gaps: list[NDArray[np.float64]] = []
    reached = 0.0
    while reached <= expected[-1]:
        block = rng.gamma(1.0 / variance, variance, 256)
        gaps.append(block)
        reached += float(block.sum())
    operational = np.cumsum(np.concatenate(gaps))
    at_s: NDArray[np.float64] = np.interp(
        operational[operational < expected[-1]], expected, edges_s
    )
    return at_s


def _phases(workload: Workload) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Edges of the phases, and the rate between each two."""
    burst = workload.burst
    if burst is None:
        return np.array([0.0, workload.duration_s]), np.array([workload.rate_per_s])
    if not 0.0 < burst.start_s < burst.end_s < workload.duration_s:
        raise ValueError(f"{burst} is not inside the {workload.duration_s} s of the workload")
    edges_s = np.array([0.0, burst.start_s, burst.end_s, workload.duration_s])
    return edges_s, workload.rate_per_s * np.array([1.0, burst.factor, 1.0])
