"""A scaled day of overflow: one pool of own servers, one remote, a demand that rises and falls.

The scheduler of production decides for simulated engines. The bill is compared with the newsvendor
optimum for the same capacity: own servers paid for the whole day, and of the demand only what is
above their capacity bought, at the remote's price.

    python -m benchmarks.day --replicas 4 --day-s 2400
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from benchmarks.lab.fleets import FLEETS, LabFleet
from benchmarks.lab.ours import own_placements
from scheduler.contract import (
    Action,
    EngineReport,
    Event,
    Objective,
    PlacementKind,
    Request,
    Slo,
    SloClass,
    Start,
    Tick,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.policy import Policy
from scheduler.pricing import RateTier, TokenCounts, TokenRates
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import StepModel
from simulation.arrivals import Arrival, Outcome, OutcomeKind
from simulation.decider import SimulatedPlacement
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import ExpertLoad, Physics
from simulation.fleet import FleetSimulation
from simulation.generators import AZURE_CONVERSATION

PEAK_OVER_MEAN = 2.7
"""Of public inference traffic over a day."""
NIGHT = 0.3
"""The least demand, as a share of the mean."""
REMOTE_PRICE_FACTOR = 4.0
"""Price of a request at the remote, over its price on own servers at full load."""
LOCAL_ONLY_SHARE = 0.15
FAR, REMOTE_CLASS = "far", "eu"
BIN_S = 10.0
"""Demand is counted in such pieces: about as long as a queue can even out."""
SLO_CAPACITY_SHARE = 0.9
"""Share of the capacity at full load that own servers alone serve within the SLO: at 90 % the
policy laboratory's Qwen fleet keeps it for 99.3 % of the requests, at more for less."""
FAR_STEP_S = 0.015
"""The remote makes a token in this time for every request, however many there are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Day:
    """What to play. `load` is the mean demand over the capacity; `flat`: no rise and fall."""

    replicas: int
    day_s: float
    capacity_per_s: float
    """Requests that one replica completes at full load."""
    load: float
    seed: int = 1
    flat: bool = False


@dataclass(slots=True, kw_only=True)
class Result:
    """What came of it, US dollars and shares."""

    requests: int
    own_usd: float
    remote_usd: float
    optimum_usd: float
    """For the capacity that keeps the SLO."""
    careless_usd: float
    """For the capacity at full load, SLO ignored: a bound, not a way to run."""
    remote_requests: int
    local_only_sent_out: int
    interactive_met: float
    rejected: int
    switches: list[float] = field(default_factory=list)

    @property
    def over_optimum(self) -> float:
        """Total cost over the optimum, minus 1."""
        return (self.own_usd + self.remote_usd) / self.optimum_usd - 1.0


def shape(day_share: float) -> float:
    """Demand at a time of the day, over its mean."""
    # base + height * ((1 + cos) / 2)^k has mean base + height * c(k): k is where that is 1.
    height = PEAK_OVER_MEAN - NIGHT
    wave = (1.0 - math.cos(2.0 * math.pi * day_share)) / 2.0
    return NIGHT + height * math.pow(wave, _exponent((1.0 - NIGHT) / height))


def _exponent(mean: float) -> float:
    low, high = 0.5, 50.0
    for _ in range(60):
        middle = (low + high) / 2.0
        area = math.gamma(middle + 0.5) / (math.sqrt(math.pi) * math.gamma(middle + 1.0))
        low, high = (middle, high) if area > mean else (low, middle)
    return low


class _Watched:
    """The scheduler, with reports of the remote left out (it has none), and its mark watched."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._marked = False
        self.switches: list[float] = []
        self.sent_out: list[str] = []

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        return self._seen(self._scheduler.submit(request, now))

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        if isinstance(event, EngineReport):
            if event.placement == FAR:
                return ()
            marked = any(pool.saturated for pool in self._scheduler.snapshot(now).pools)
            if marked != self._marked:
                self._marked = marked
                self.switches.append(now)
        return self._seen(self._scheduler.handle(event, now))

    def tick(self, now: float) -> Tick:
        tick = self._scheduler.tick(now)
        self._seen(tick.actions)
        return tick

    def _seen(self, actions: Sequence[Action]) -> Sequence[Action]:
        for action in actions:
            if isinstance(action, Start) and action.kind is PlacementKind.REMOTE:
                self.sent_out.append(action.request_id)
        return actions


def play(day: Day, fleet: LabFleet = FLEETS["qwen"]) -> Result:
    """Plays a day to its end."""
    fleet = replace(fleet, replicas=day.replicas)
    own_usd_per_request = fleet.usd_per_s / day.capacity_per_s
    rates = remote_rates(REMOTE_PRICE_FACTOR * own_usd_per_request)
    arrivals = list(day_arrivals(day, fleet))
    own = fleet.placements(TRUTH_SEED, 16)
    decider = _Watched(day_scheduler(fleet, [p.name for p in own], rates))
    outcomes: list[Outcome] = []
    FleetSimulation([*own, far()], decider, arrivals, outcomes.append).run()
    local_only = {a.request.request_id for a in arrivals if not a.request.remote_classes}
    bought = [o for o in outcomes if o.placement == FAR and o.kind is OutcomeKind.FINISHED]
    remote = sum(rates.cost_nano_usd(counts_of(o.arrival)) for o in bought)
    interactive = [
        o
        for o in outcomes
        if o.arrival.request.slo.slo_class is SloClass.INTERACTIVE
        and o.kind is OutcomeKind.FINISHED
    ]
    own_usd = day.replicas * fleet.usd_per_s * day.day_s
    return Result(
        requests=len(arrivals),
        own_usd=own_usd,
        remote_usd=remote / 1e9,
        optimum_usd=own_usd + _least_bought(day, arrivals, rates, SLO_CAPACITY_SHARE) / 1e9,
        careless_usd=own_usd + _least_bought(day, arrivals, rates, 1.0) / 1e9,
        remote_requests=len(bought),
        local_only_sent_out=len(local_only.intersection(decider.sent_out)),
        interactive_met=sum(map(met, interactive)) / max(1, len(interactive)),
        rejected=sum(o.kind is OutcomeKind.REJECTED for o in outcomes),
        switches=decider.switches,
    )


def _least_bought(
    day: Day, arrivals: Sequence[Arrival], rates: TokenRates, capacity_share: float
) -> float:
    """What is above the capacity of each piece of the day, nano-USD at the remote's price."""
    bins = np.zeros(math.ceil(day.day_s / BIN_S) + 1)
    for arrival in arrivals:
        bins[int(arrival.request.arrival_s / BIN_S)] += rates.cost_nano_usd(counts_of(arrival))
    mean = bins.sum() / len(arrivals)
    capacity = capacity_share * day.replicas * day.capacity_per_s * BIN_S * mean
    return float(np.maximum(0.0, bins - capacity).sum())


def met(outcome: Outcome) -> bool:
    """Whether the request got its first and its further tokens in time."""
    request, first_s = outcome.arrival.request, outcome.first_token_s
    if first_s is None or first_s - request.arrival_s > request.slo.ttft_s:
        return False
    later = outcome.output_tokens - 1
    return later < 1 or (outcome.ended_s - first_s) / later <= request.slo.tpot_s


def counts_of(arrival: Arrival) -> TokenCounts:
    """The tokens of a request that is answered whole."""
    return TokenCounts(
        uncached_input_tokens=arrival.request.prompt_tokens, output_tokens=arrival.output_tokens
    )


def remote_rates(usd_per_request: float) -> TokenRates:
    """A mean request of the trace costs that much; output is four times as dear as input."""
    kind = AZURE_CONVERSATION
    weight = kind.prompt.mean_tokens + 4.0 * kind.output.mean_tokens
    per_million = round(usd_per_request * 1e9 * 1e6 / weight)
    tier = RateTier(
        uncached_input=per_million,
        cached_input=per_million,
        cache_write=per_million,
        output=4 * per_million,
    )
    return TokenRates(row_id="far/day", tiers=(tier,))


def day_scheduler(fleet: LabFleet, names: Sequence[str], rates: TokenRates) -> Scheduler:
    """The scheduler of production, with own placements of these names and the remote."""
    own = own_placements(fleet, names, Objective.LATENCY)
    far = Placement(
        name=FAR,
        kind=PlacementKind.REMOTE,
        model=fleet.model,
        max_running=100_000,
        remote_class=REMOTE_CLASS,
        rates=rates,
    )
    queue = QueueLimits(requests=4096, size_bytes=1 << 30)
    return Scheduler([*own, far], SchedulerLimits(queue=queue, attempts=2), Policy())


def far() -> SimulatedPlacement:
    """A remote that is never full."""
    model = StepModel(
        experts=2,
        experts_per_token=1,
        base_s=FAR_STEP_S,
        expert_s=0.0,
        sequence_s=0.0,
        kv_token_s=0.0,
        prefill_s=0.0,
        prefill_token_s=1e-6,
        prefill_context_s=0.0,
    )
    config = EngineConfig(
        max_num_seqs=100_000,
        max_num_batched_tokens=1 << 24,
        num_gpu_blocks=1 << 24,
        block_size=16,
        max_model_len=1 << 20,
        noise_sigma=0.0,
    )
    return SimulatedPlacement(FAR, Engine(config, Physics(model, ExpertLoad()), 1))


def day_arrivals(day: Day, fleet: LabFleet) -> Iterator[Arrival]:
    """Requests of the conversation trace's statistics, as a Poisson process of changing rate."""
    rng = np.random.default_rng(day.seed)
    mean_per_s = day.load * day.replicas * day.capacity_per_s
    peak_per_s = mean_per_s * (1.0 if day.flat else PEAK_OVER_MEAN)
    truth = fleet.truth(TRUTH_SEED)
    now, count = 0.0, 0
    while True:
        now += rng.exponential(1.0 / peak_per_s)
        if now >= day.day_s:
            return
        if not day.flat and rng.random() * PEAK_OVER_MEAN > shape(now / day.day_s):
            continue
        (prompt,) = AZURE_CONVERSATION.prompt.draw(rng, 1, 1.0)
        (output,) = AZURE_CONVERSATION.output.draw(rng, 1, 1.0)
        ttft_s = fleet.ttft_slo_s(truth, int(prompt))
        standard = rng.random() < 0.25
        count += 1
        yield Arrival(
            request=Request(
                request_id=f"r{count}",
                tenant=f"tenant-{rng.integers(8)}",
                model=fleet.model,
                arrival_s=now,
                deadline_s=now + 600.0,
                slo=Slo(
                    slo_class=SloClass.STANDARD if standard else SloClass.INTERACTIVE,
                    ttft_s=ttft_s,
                    tpot_s=fleet.tpot_s,
                    max_queue_s=10.0,
                ),
                priority=0,
                prompt_tokens=int(prompt),
                max_output_tokens=4096,
                choices=1,
                size_bytes=4 * int(prompt),
                remote_classes=(
                    frozenset() if rng.random() < LOCAL_ONLY_SHARE else frozenset({REMOTE_CLASS})
                ),
                prompt_tokens_exact=True,
            ),
            output_tokens=int(output),
        )


QWEN_CAPACITY_PER_S = 8.4
"""Requests a second that a replica of the laboratory's Qwen fleet completes in permanent
saturation, its SLO ignored: an eighth of `benchmarks.lab.runs.capacity_per_s` for azure-conv."""
TRUTH_SEED = 1
"""Of the engines, for which that was measured."""
NEWSVENDOR_LOAD = 0.594
"""Mean demand over capacity at which demand exceeds it for a quarter of the day: where a further
replica costs what it saves, at a remote four times as dear."""


def main() -> None:
    """Plays and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--day-s", type=float, default=2400.0, help="length of the scaled day")
    parser.add_argument("--load", type=float, default=NEWSVENDOR_LOAD)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--flat", action="store_true", help="constant load: does overflow flap?")
    args = parser.parse_args()
    result = play(
        Day(
            replicas=args.replicas,
            day_s=args.day_s,
            capacity_per_s=QWEN_CAPACITY_PER_S,
            load=args.load,
            seed=args.seed,
            flat=args.flat,
        )
    )
    print(
        f"{result.requests} requests, {result.remote_requests} to the remote,"
        f" {result.rejected} refused; own ${result.own_usd:.2f} + remote ${result.remote_usd:.2f}"
        f" = ${result.own_usd + result.remote_usd:.2f}, optimum ${result.optimum_usd:.2f}:"
        f" {result.over_optimum:+.1%}; if the SLO did not matter ${result.careless_usd:.2f}"
    )
    print(
        f"SLO kept for {result.interactive_met:.2%} of the admitted interactive requests;"
        f" local-only sent out: {result.local_only_sent_out};"
        f" switches of the mark: {len(result.switches)} in {args.day_s:g} s"
    )


if __name__ == "__main__":
    main()
