"""What a run was worth: requests that met their SLO, what they cost, and who they were."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from benchmarks.lab.fleets import LabFleet
from simulation.arrivals import Outcome, OutcomeKind
from simulation.decider import SimulatedPlacement


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One run, rejections counted as misses.

    Scored are the requests that came in the window; dollars and replicas are those of the window,
    and the load goes on behind it: requests end under load, and nobody pays for a fleet's last
    stragglers.

    Attributes:
        met: share of the requests that finished within their SLO.
        met_per_usd, tokens_per_usd, output_per_usd: such requests, their prompt and output tokens,
            and the output alone, per dollar of powered GPU time.
        drained_per_usd: SLO-met requests of the whole run, per dollar to the end of the last one.
        powered: time-average of the replicas that are powered, release delay included.
        busy: time-average of the replicas that have work.
        ttft_s, tpot_s: (p50, p99) of those that finished.
        hit_rate: share of prompt tokens found in prefix caches.
        kv_balance: mean over replicas of the KV in use, over that of the fullest; mean of samples.
        batch: mean batch of replicas at work.
        experts_per_token: distinct experts per layer and token of these batches.
        by_class, by_tenant: `met` of each; the worst tenant counts fairness.
        reasons: refusals by reason.
    """

    requests: int
    met: float
    met_tokens: float
    met_per_usd: float
    tokens_per_usd: float
    output_per_usd: float
    drained_per_usd: float
    usd: float
    rejected: float
    powered: float
    busy: float
    ttft_s: tuple[float, float]
    tpot_s: tuple[float, float]
    hit_rate: float
    kv_balance: float
    batch: float
    experts_per_token: float
    preemptions: int
    by_class: dict[str, float]
    by_tenant: dict[str, float]
    reasons: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """Seconds up to `until_s`, summed over the replicas: powered, and at work."""

    until_s: float
    powered_s: float
    busy_s: float


@dataclass(slots=True)
class Sampler:
    """Samples the engines at every report."""

    placements: Sequence[SimulatedPlacement]
    balance: list[float] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    experts: list[float] = field(default_factory=list)

    def __call__(self, now: float) -> None:
        """One sample."""
        usage = [placement.engine.kv_usage for placement in self.placements]
        if max(usage) > 0:
            self.balance.append(sum(usage) / len(usage) / max(usage))
        for placement in self.placements:
            batch = sum(rank.batch for rank in placement.engine.ranks)
            if batch:
                self.batches.append(batch)
                self.experts.append(placement.engine.physics.distinct_experts(batch) / batch)


def meets_slo(outcome: Outcome) -> bool:
    """First token and mean time per output token in time."""
    slo = outcome.arrival.request.slo
    if outcome.kind is not OutcomeKind.FINISHED or outcome.first_token_s is None:
        return False
    if outcome.first_token_s - outcome.arrival.request.arrival_s > slo.ttft_s:
        return False
    return _tpot_s(outcome) <= slo.tpot_s


def score(
    outcomes: Sequence[Outcome],
    placements: Sequence[SimulatedPlacement],
    sampler: Sampler,
    fleet: LabFleet,
    *,
    window: Spent,
    whole: Spent,
) -> Score:
    """Scores a run of which all requests have ended."""
    met_in_all = sum(map(meets_slo, outcomes))
    outcomes = [o for o in outcomes if o.arrival.request.arrival_s < window.until_s]
    met = [outcome for outcome in outcomes if meets_slo(outcome)]
    done = [o for o in outcomes if o.kind is OutcomeKind.FINISHED and o.first_token_s is not None]
    ttft = [(o.first_token_s or 0.0) - o.arrival.request.arrival_s for o in done]
    tpot = [_tpot_s(o) for o in done if o.output_tokens > 1]
    tokens = sum(_tokens(o) for o in met)
    usd = window.powered_s * fleet.usd_per_s
    counters = [placement.engine.counters for placement in placements]
    queried = sum(c.cache_queries_tokens for c in counters)
    by_class: Counter[str] = Counter()
    by_tenant: Counter[str] = Counter()
    good_class: Counter[str] = Counter()
    good_tenant: Counter[str] = Counter()
    for outcome in outcomes:
        request = outcome.arrival.request
        by_class[str(request.slo.slo_class)] += 1
        by_tenant[request.tenant] += 1
    for outcome in met:
        good_class[str(outcome.arrival.request.slo.slo_class)] += 1
        good_tenant[outcome.arrival.request.tenant] += 1
    return Score(
        requests=len(outcomes),
        met=len(met) / len(outcomes),
        met_tokens=tokens / sum(_tokens(o) for o in outcomes),
        met_per_usd=len(met) / usd,
        tokens_per_usd=tokens / usd,
        output_per_usd=sum(o.arrival.output_tokens for o in met) / usd,
        drained_per_usd=met_in_all / (whole.powered_s * fleet.usd_per_s),
        usd=usd,
        rejected=sum(o.kind is OutcomeKind.REJECTED for o in outcomes) / len(outcomes),
        powered=window.powered_s / window.until_s,
        busy=window.busy_s / window.until_s,
        ttft_s=_percentiles(ttft),
        tpot_s=_percentiles(tpot),
        hit_rate=sum(c.cache_hits_tokens for c in counters) / max(1, queried),
        kv_balance=_mean(sampler.balance),
        batch=_mean(sampler.batches),
        experts_per_token=_mean(sampler.experts),
        preemptions=sum(c.preemptions for c in counters),
        by_class={name: good_class[name] / count for name, count in sorted(by_class.items())},
        by_tenant={name: good_tenant[name] / count for name, count in sorted(by_tenant.items())},
        reasons=dict(Counter(str(o.reason) for o in outcomes if o.reason is not None)),
    )


def _tokens(outcome: Outcome) -> int:
    return outcome.arrival.request.prompt_tokens + outcome.arrival.output_tokens


def _tpot_s(outcome: Outcome) -> float:
    if outcome.output_tokens < 2 or outcome.first_token_s is None:
        return 0.0
    return (outcome.ended_s - outcome.first_token_s) / (outcome.output_tokens - 1)


def _percentiles(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    low, high = np.percentile(values, [50, 99])
    return float(low), float(high)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
