"""Cells of the referee: its fleets, loads, policies and troubles, and the score of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.lab.fleets import FLEETS, LabFleet
from benchmarks.lab.loads import arrivals, load_trace
from benchmarks.lab.ours import our_decider
from benchmarks.lab.rivals import RIVALS, Rival
from benchmarks.referee.engine import Figures, RefereeEngine, Size
from benchmarks.referee.fleet import Played, Referee, Trouble
from scheduler.step_time.step_model import StepModel
from simulation.arrivals import Arrival

SCORED_SHARE = 0.8
LONG_GAP_S = 0.5
BURST_FACTOR, BURST_S = 10.0, 20.0
LONG_OUTPUTS, LONGEST_OUTPUT = 0.03, 20_000
EXTERNAL_SHARE = 0.3
TROUBLES = (
    "none", "prefill x2", "prefill x0.5", "all x2", "all x0.5", "slow replica", "death", "burst",
    "stale reports", "external load", "long outputs",
)  # fmt: skip
"""What goes wrong, by name: `x2` is twice as slow as the scheduler believes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefereeRun:
    """What to play; `cap` of a rival, `switches` of ours."""

    fleet: str
    trace: str
    load: float
    policy: str
    seed: int
    count: int
    folder: Path | None
    cap: int | None = None
    switches: tuple[tuple[str, str], ...] = ()
    trouble: str = "none"
    progress_s: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RefereeScore:
    """Of the requests of the scored time.

    Attributes:
        met, met_tokens: share of the requests within their SLO, and of the tokens.
        met_per_usd, tokens_per_usd: per dollar of powered GPU time.
        powered: mean replicas that are powered.
        refused: share that was refused.
        late: share of the finished that missed their time to first token; `slow`: per token.
        ttft_error, tpot_error: (p50, p90) of how far the outcome was from what was told, relative;
            NaN where nothing was told.
        tpot_bias: (p50, p90) of outcome over told.
        longest_gap_s: (p50, p99); `long_gaps`: share of streams with a gap above LONG_GAP_S.
    """

    met: float
    met_tokens: float
    met_per_usd: float
    tokens_per_usd: float
    powered: float
    refused: float
    late: float
    slow: float
    ttft_error: tuple[float, float]
    tpot_error: tuple[float, float]
    tpot_bias: tuple[float, float]
    longest_gap_s: tuple[float, float]
    long_gaps: float


def figures_of(prior: StepModel) -> Figures:
    """The referee's truth: what the prior believes, each part off by a factor of its own."""
    return Figures(
        experts=prior.experts,
        experts_per_token=prior.experts_per_token,
        fixed_s=1.15 * prior.base_s,
        expert_s=0.85 * prior.expert_s * prior.overlap,
        each_s=1.2 * prior.sequence_s,
        memory_s=1.1 * prior.kv_token_s,
        token_s=0.9 * prior.prefill_token_s,
        attention_s=1.2 * 2.0 * prior.prefill_context_s,
    )


def play(run: RefereeRun) -> RefereeScore:
    """Plays a run to its end."""
    load, trouble = _load(run)
    return _play(run, load, trouble)


@cache
def capacity_per_s(fleet: str, trace: str, seed: int, folder: Path | None) -> float:
    """100 %: what least-request completes per second in permanent saturation, SLO ignored."""
    count = 1200 if trace.startswith("azure") else 500
    run = RefereeRun(
        fleet=fleet, trace=trace, load=1.0, policy="least-request", seed=seed, count=count,
        folder=folder,
    )  # fmt: skip
    lab = FLEETS[fleet]
    source = load_trace(trace, folder)
    truth = _truth(lab)
    load = arrivals(source, lab, truth, count=count, rate_per_s=1e4, seed=seed)
    referee = _referee(run, lab, source.block_tokens, load, Trouble())
    referee.run(load)
    ends = sorted(p.ended_s for p in referee.played.values() if p.ended_s is not None)
    first, last = len(ends) // 5, len(ends) * 3 // 5
    return (last - first) / (ends[last] - ends[first])


def _truth(lab: LabFleet) -> StepModel:
    """For SLOs alone: the referee's figures as a step model."""
    figures, prior = figures_of(lab.step_model), lab.step_model
    return replace(
        prior,
        base_s=figures.fixed_s,
        expert_s=figures.expert_s,
        overlap=1.0,
        sequence_s=figures.each_s,
        prefill_s=figures.each_s,
        prefill_token_s=figures.token_s,
        prefill_context_s=figures.attention_s / 2.0,
    )


def _load(run: RefereeRun) -> tuple[list[Arrival], Trouble]:
    lab = FLEETS[run.fleet]
    rate = run.load * capacity_per_s(run.fleet, run.trace, run.seed, run.folder)
    if run.trouble == "external load":
        rate *= 1.0 - EXTERNAL_SHARE
    load = arrivals(
        load_trace(run.trace, run.folder), lab, _truth(lab), count=run.count, rate_per_s=rate,
        seed=run.seed,
    )  # fmt: skip
    last_s = load[-1].request.arrival_s
    rng = np.random.default_rng(run.seed)
    match run.trouble:
        case "slow replica":
            return load, Trouble(slow=((0, 0.3 * last_s, 3.0),))
        case "death":
            return load, Trouble(dies=((1, 0.3 * last_s, 0.6 * last_s),))
        case "stale reports":
            return load, Trouble(silent=(0.2 * last_s, 0.8 * last_s))
        case "burst":
            return _burst(load, 0.4 * last_s), Trouble()
        case "long outputs":
            room = lab.longest_tokens
            return [
                replace(
                    a, output_tokens=max(1, min(LONGEST_OUTPUT, room - a.request.prompt_tokens))
                )
                if rng.random() < LONG_OUTPUTS
                else a
                for a in load
            ], Trouble()
        case "external load":
            return load, Trouble(others=_others(load, lab.replicas, rng))
    return load, Trouble()


def _burst(load: Sequence[Arrival], from_s: float) -> list[Arrival]:
    """Ten times the rate for 20 s: what would come later comes then."""
    moved: list[Arrival] = []
    saved_s = 0.0
    for arrival in load:
        at_s = arrival.request.arrival_s
        if at_s > from_s:
            inside_s = min(BURST_S * BURST_FACTOR, at_s - from_s)
            saved_s = inside_s * (1.0 - 1.0 / BURST_FACTOR)
        request = msgspec.structs.replace(
            arrival.request,
            arrival_s=at_s - saved_s,
            deadline_s=arrival.request.deadline_s - saved_s,
        )
        moved.append(replace(arrival, request=request))
    return moved


def _others(
    load: Sequence[Arrival], replicas: int, rng: np.random.Generator
) -> tuple[tuple[float, int, int, int], ...]:
    """Requests of other clients, of the same lengths, spread over all replicas but in no order."""
    share = EXTERNAL_SHARE / (1.0 - EXTERNAL_SHARE)
    last_s = load[-1].request.arrival_s
    picked = rng.choice(len(load), int(share * len(load)))
    return tuple(
        (
            float(rng.uniform(0.0, last_s)),
            int(rng.integers(replicas)),
            load[i].request.prompt_tokens,
            load[i].output_tokens,
        )
        for i in picked
    )


def _believed(run: RefereeRun, lab: LabFleet) -> LabFleet:
    """The fleet as policies know it; the engines stay as they are."""
    name, _, factor = run.trouble.partition(" x")
    if not factor:
        return lab
    scale, model = 1.0 / float(factor), lab.step_model
    if name == "prefill":
        return replace(lab, step_model=model.scaled(prefill=scale))
    return replace(
        lab,
        step_model=model.scaled(
            base=scale, experts=scale, sequences=scale, kv=scale, prefill=scale
        ),
    )


def _referee(
    run: RefereeRun, lab: LabFleet, block_tokens: int, load: Sequence[Arrival], trouble: Trouble
) -> Referee:
    size = Size(kv_tokens=lab.kv_tokens, block_tokens=block_tokens, sequences=lab.max_running)
    figures = figures_of(lab.step_model)
    names = [f"{lab.name}-{i}" for i in range(lab.replicas)]
    believed = _believed(run, lab)
    if run.policy == "ours":
        decider = our_decider(believed, names, dict(run.switches))
    else:
        decider = Rival(
            names,
            RIVALS[run.policy],
            step_model=believed.step_model,
            content={
                a.request.request_id: [b for b in a.content if isinstance(b, int)] for a in load
            },
            seed=run.seed,
            cap=run.cap,
        )
    engines = [RefereeEngine(figures, size) for _ in names]
    return Referee(names, engines, decider, trouble, run.progress_s)


def _play(run: RefereeRun, load: Sequence[Arrival], trouble: Trouble) -> RefereeScore:
    lab = FLEETS[run.fleet]
    block_tokens = load_trace(run.trace, run.folder).block_tokens
    referee = _referee(run, lab, block_tokens, load, trouble)
    until_s = load[int(SCORED_SHARE * len(load))].request.arrival_s
    referee.run(load, until_s)
    played = [p for p in referee.played.values() if p.arrival.request.arrival_s < until_s]
    met = [p for p in played if p.met]
    done = [p for p in played if p.ended_s is not None and not p.refused]
    usd = referee.powered_s * lab.usd_per_s
    tokens = sum(map(_tokens, met))
    tpots = [p.tpot_s / p.predicted_tpot_s for p in done if p.tpot_s and p.predicted_tpot_s]
    ttfts = [
        (p.first_s - p.sent_s) / p.predicted_ttft_s
        for p in done
        if p.first_s is not None and p.sent_s is not None and p.predicted_ttft_s
    ]
    gaps = [p.longest_gap_s for p in done if p.arrival.output_tokens > 1]
    late = sum((p.ttft_s or 0.0) > p.arrival.request.slo.ttft_s for p in done)
    slow = sum((p.tpot_s or 0.0) > p.arrival.request.slo.tpot_s for p in done)
    return RefereeScore(
        met=len(met) / len(played),
        met_tokens=tokens / sum(map(_tokens, played)),
        met_per_usd=len(met) / usd,
        tokens_per_usd=tokens / usd,
        powered=referee.powered_s / until_s,
        refused=sum(p.refused for p in played) / len(played),
        late=late / max(1, len(done)),
        slow=slow / max(1, len(done)),
        ttft_error=_quantiles([abs(r - 1.0) for r in ttfts], 50, 90),
        tpot_error=_quantiles([abs(r - 1.0) for r in tpots], 50, 90),
        tpot_bias=_quantiles(tpots, 50, 90),
        longest_gap_s=_quantiles(gaps, 50, 99),
        long_gaps=sum(gap > LONG_GAP_S for gap in gaps) / max(1, len(gaps)),
    )


def _tokens(played: Played) -> int:
    return played.arrival.request.prompt_tokens + played.arrival.output_tokens


def _quantiles(values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    if not values:
        return float("nan"), float("nan")
    found = np.percentile(values, [low, high])
    return float(found[0]), float(found[1])
