"""One run of the laboratory: a fleet, a workload, a load, a policy, a seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from benchmarks.lab.fleets import FLEETS, LabFleet
from benchmarks.lab.fronted import LINK_TICK_S, Fronted
from benchmarks.lab.loads import arrivals, load_trace
from benchmarks.lab.ours import our_decider
from benchmarks.lab.rivals import RIVALS, Rival
from benchmarks.lab.score import Sampler, Score, Spent, score
from simulation.arrivals import Arrival, Outcome, OutcomeKind
from simulation.decider import Decider, FleetTiming
from simulation.fleet import FleetSimulation

SATURATED_RATE_PER_S = 10_000.0
RELEASE_S = 30.0
SCORED_SHARE = 0.8
"""Of the requests, in order of arrival; the others only keep the load up until these have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What to run.

    Attributes:
        fleet, trace: by name.
        load: share of the fleet's capacity that arrives, 1.0 is 100 %.
        policy: "ours" or a rival; `switches` are ours', e.g. an ablation.
        cap: of a rival, requests per replica; None: plain. `wait_share`: see `Rival`.
        count: requests.
        tpot_s: limit of the mean time per output token; None: the fleet's.
        fronts: fronts in front of our scheduler, over a link; 0: it is in their process.
        patience: how long a client lets a request wait in the queue, in times its TTFT limit.
    """

    fleet: str
    trace: str
    load: float
    policy: str
    seed: int
    count: int
    folder: Path | None = None
    cap: int | None = None
    wait_share: float = 0.5
    switches: tuple[tuple[str, str], ...] = ()
    tpot_s: float | None = None
    patience: float = 1.0
    fronts: int = 0

    @property
    def label(self) -> str:
        """Policy, its cap or its switches."""
        cap = f" cap {self.cap}/{self.wait_share:g}" if self.cap is not None else ""
        return self.policy + cap + "".join(f" {name}={value}" for name, value in self.switches)


def play(run: Run) -> Score:
    """Runs it to its end."""
    rate = run.load * capacity_per_s(run.fleet, run.trace, run.seed, run.folder)
    return _simulate(run, rate, _decider)[0]


@cache
def capacity_per_s(fleet: str, trace: str, seed: int, folder: Path | None) -> float:
    """100 %: what least-request completes per second in permanent saturation, SLO ignored.

    Measured over the middle of a run in which everything arrives at once.
    """
    count = 2000 if trace in ("azure-conv", "azure-code") else 800
    run = Run(
        fleet=fleet, trace=trace, load=1.0, policy="least-request", seed=seed, count=count,
        folder=folder,
    )  # fmt: skip
    ends = sorted(
        outcome.ended_s
        for outcome in _simulate(run, SATURATED_RATE_PER_S, _decider)[1]
        if outcome.kind is OutcomeKind.FINISHED
    )
    first, last = len(ends) // 5, len(ends) * 3 // 5
    return (last - first) / (ends[last] - ends[first])


def _simulate(
    run: Run,
    rate_per_s: float,
    decider_of: Callable[[Run, LabFleet, Sequence[str], Sequence[Arrival]], Decider],
) -> tuple[Score, list[Outcome]]:
    fleet = FLEETS[run.fleet]
    if run.tpot_s is not None:
        fleet = replace(fleet, tpot_s=run.tpot_s)
    trace = load_trace(run.trace, run.folder)
    load = arrivals(
        trace,
        fleet,
        fleet.truth(run.seed),
        count=run.count,
        rate_per_s=rate_per_s,
        seed=run.seed,
        patience=run.patience,
    )
    placements = fleet.placements(run.seed, trace.block_tokens)
    decider = decider_of(run, fleet, [p.name for p in placements], load)
    sampler = Sampler(placements)
    outcomes: list[Outcome] = []
    simulation = FleetSimulation(
        placements,
        decider,
        load,
        outcomes.append,
        timing=replace(
            FleetTiming(),
            release_s=RELEASE_S,
            tick_s=LINK_TICK_S if run.fronts else FleetTiming().tick_s,
        ),
        on_report=sampler,
    )

    def spent(until_s: float) -> Spent:
        busy_s = sum(placement.engine.truth.busy_s for placement in placements)
        return Spent(until_s=until_s, powered_s=sum(simulation.powered_s(until_s)), busy_s=busy_s)

    until_s = load[int(SCORED_SHARE * len(load))].request.arrival_s
    simulation.run_until(until_s)
    window = spent(until_s)
    simulation.run()
    if len(outcomes) != len(load):
        raise RuntimeError(f"{run.label}: {len(load) - len(outcomes)} requests did not end")
    whole = spent(max(outcome.ended_s for outcome in outcomes))
    found = score(outcomes, placements, sampler, fleet, window=window, whole=whole)
    return found, outcomes


def _decider(run: Run, fleet: LabFleet, names: Sequence[str], load: Sequence[Arrival]) -> Decider:
    if run.policy == "ours":
        decider = our_decider(fleet, names, dict(run.switches))
        return Fronted(decider, run.fronts) if run.fronts else decider
    content = {a.request.request_id: _blocks(a) for a in load}
    return Rival(
        names,
        RIVALS[run.policy],
        step_model=fleet.step_model,
        content=content,
        seed=run.seed,
        cap=run.cap,
        wait_share=run.wait_share,
    )


def _blocks(arrival: Arrival) -> Sequence[int]:
    return [block for block in arrival.content if isinstance(block, int)]
