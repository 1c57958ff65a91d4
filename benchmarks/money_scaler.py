"""A scaled day whose own servers come and go by money, against every fixed fleet in hindsight.

The day is that of `benchmarks.day`. KEDA is played: every 15 s it asks the count of production
(`ReplicaCounts`), which sees settled attempts, prices and the scheduler's figures. A server that is
added serves after `--start-s`; one that is taken away finishes what it runs. Both are paid
meanwhile. The day is much shorter than a real one, so its demand rises that much faster.

    python -m benchmarks.money_scaler --day-s 3600
"""

from __future__ import annotations

import argparse
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.day import (
    FAR,
    NEWSVENDOR_LOAD,
    QWEN_CAPACITY_PER_S,
    REMOTE_PRICE_FACTOR,
    TRUTH_SEED,
    Day,
    counts_of,
    day_arrivals,
    day_scheduler,
    far,
    met,
    remote_rates,
)
from benchmarks.lab.fleets import FLEETS, LabFleet
from gateway.scheduling.replica_counts import NotMeasured, ReplicaCounts
from scheduler.contract import (
    Action,
    AttemptOutcome,
    EngineReport,
    Event,
    PlacementKind,
    Request,
    ServingChanged,
    SloClass,
    Tick,
    Usage,
)
from scheduler.core import Scheduler
from scheduler.metering.settlement import SettledAttempt
from scheduler.overflow.replica_count import ReplicaLimits, WantedReplicas
from scheduler.placement_state import Placement
from scheduler.port import FleetFigures
from scheduler.pricing import TokenRates
from scheduler.snapshot import without_free_places
from simulation.arrivals import Arrival, Outcome, OutcomeKind
from simulation.fleet import FleetSimulation

POLL_S = 15.0
"""KEDA's HPA asks so often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """How the fleet changes. `fixed`: it does not, and has that many servers."""

    limits: ReplicaLimits
    start_s: float
    fixed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of a day: US dollars, shares, and counts."""

    own_usd: float
    remote_usd: float
    slo_met: float
    """Of the admitted interactive requests."""
    refused: float
    """Share of all requests."""
    mean_servers: float
    changes: int

    @property
    def usd(self) -> float:
        """The whole bill."""
        return self.own_usd + self.remote_usd


class _Scaled:
    """The scheduler, with servers that come and go: a decider of the simulation."""

    def __init__(
        self, scheduler: Scheduler, names: Sequence[str], scaling: Scaling, rates: TokenRates
    ) -> None:
        self._scheduler = scheduler
        self._names = names
        self._scaling = scaling
        self._rates = rates
        self._now = 0.0
        self._asked_s = 0.0
        self._serves_from: dict[str, float] = {}
        """Servers that were ordered, and from when they serve."""
        self._ending: set[str] = set()
        self._paid_from: dict[str, float] = {}
        self.paid_s = 0.0
        self.changes = 0
        self.facts: Mapping[str, Placement] = {
            state.facts.name: state.facts for state in scheduler.placements
        }
        self._counts = ReplicaCounts(lambda: self, lambda: self._now)
        for name in names[: scaling.fixed or scaling.limits.least]:
            self._serves_from[name] = self._paid_from[name] = 0.0

    async def figures(self) -> FleetFigures:
        """The scheduler's figures; servers that do not exist are left out."""
        snapshot = self._scheduler.snapshot(self._now)
        return FleetFigures(snapshot=without_free_places(snapshot, self._serves_from))

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        """A new request."""
        return self._scheduler.submit(request, now)

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """An event. Servers that do not exist report nothing."""
        self._now = now
        if isinstance(event, ServingChanged) and event.placement != FAR:
            serving = event.placement in self._serves_from
            there = ServingChanged(placement=event.placement, serving=serving, reason="not there")
            return self._scheduler.handle(there, now)
        if isinstance(event, EngineReport):
            actions = list(self._advance(now))
            if event.placement in self._paid_from:
                actions += self._scheduler.handle(event, now)
            return actions
        return self._scheduler.handle(event, now)

    def tick(self, now: float) -> Tick:
        """Time has passed."""
        return self._scheduler.tick(now)

    def ended(self, outcome: Outcome) -> None:
        """Settles an attempt, as the gateway does."""
        if outcome.kind is not OutcomeKind.FINISHED:
            return
        self._now = outcome.ended_s
        self._counts.settled(_settled(outcome, self._rates))

    def close(self, now: float) -> None:
        """Ends the bill."""
        for began_s in self._paid_from.values():
            self.paid_s += now - began_s
        self._paid_from.clear()

    def _advance(self, now: float) -> Sequence[Action]:
        actions: list[Action] = []
        for state in self._scheduler.placements:
            name = state.facts.name
            ready_s = self._serves_from.get(name)
            if ready_s is not None and not state.serving and now >= ready_s:
                actions += self._serve(name, True, now)
            if name in self._ending and not state.residents:
                self._ending.discard(name)
                self.paid_s += now - self._paid_from.pop(name)
        if self._scaling.fixed is None and now - self._asked_s >= POLL_S:
            self._asked_s = now
            actions += self._scale(now)
        return actions

    def _scale(self, now: float) -> Sequence[Action]:
        try:
            asked = self._counts.wanted(self.facts[self._names[0]].pool, self._scaling.limits)
            wanted = _result(asked).replicas
        except NotMeasured:
            return ()
        actions: list[Action] = []
        there = list(self._serves_from)
        self.changes += wanted != len(there)
        for name in there[wanted:]:
            del self._serves_from[name]
            self._ending.add(name)
            actions += self._serve(name, False, now)
        free = [name for name in self._names if name not in self._paid_from]
        for name in free[: max(0, wanted - len(there))]:
            self._serves_from[name] = now + self._scaling.start_s
            self._paid_from[name] = now
        return actions

    def _serve(self, name: str, serving: bool, now: float) -> Sequence[Action]:
        event = ServingChanged(placement=name, serving=serving, reason="scaled")
        return self._scheduler.handle(event, now)


def _result(asked: Coroutine[Any, Any, WantedReplicas]) -> WantedReplicas:
    """The answer of a coroutine that waits for nothing."""
    try:
        asked.send(None)
    except StopIteration as done:
        answer: WantedReplicas = done.value
        return answer
    raise RuntimeError("the count waits for something")


def _settled(outcome: Outcome, rates: TokenRates) -> SettledAttempt:
    request = outcome.arrival.request
    nano_usd = rates.cost_nano_usd(counts_of(outcome.arrival))
    bought = outcome.placement == FAR
    return SettledAttempt(
        request_id=request.request_id,
        attempt=1,
        key_id="",
        tenant=request.tenant,
        session_id="",
        model=request.model,
        slo_class=request.slo.slo_class,
        placement=outcome.placement,
        pool="",
        kind=PlacementKind.REMOTE if bought else PlacementKind.SELF_HOSTED,
        outcome=AttemptOutcome.OK,
        started_unix_s=outcome.dispatched_s or 0.0,
        ended_unix_s=outcome.ended_s,
        usage=Usage(
            prompt_tokens=request.prompt_tokens,
            completion_tokens=outcome.output_tokens,
            cached_tokens=outcome.cached_tokens,
        ),
        metered_nano_usd=nano_usd if bought else None,
        charged_nano_usd=None,
        basis=None,
        price_row_id="",
        parts=(),
        cheapest_remote_nano_usd=nano_usd if request.remote_classes else None,
        final=True,
    )


def play(
    day: Day, arrivals: Sequence[Arrival], scaling: Scaling, fleet: LabFleet = FLEETS["qwen"]
) -> Played:
    """Plays a day to its end."""
    fleet = replace(fleet, replicas=scaling.limits.most)
    rates = remote_rates(REMOTE_PRICE_FACTOR * fleet.usd_per_s / day.capacity_per_s)
    own = fleet.placements(TRUTH_SEED, 16)
    names = [placement.name for placement in own]
    decider = _Scaled(day_scheduler(fleet, names, rates), names, scaling, rates)
    outcomes: list[Outcome] = []

    def ended(outcome: Outcome) -> None:
        outcomes.append(outcome)
        decider.ended(outcome)

    FleetSimulation([*own, far()], decider, arrivals, ended).run()
    decider.close(day.day_s)
    finished = [o for o in outcomes if o.kind is OutcomeKind.FINISHED]
    interactive = [o for o in finished if o.arrival.request.slo.slo_class is SloClass.INTERACTIVE]
    remote = sum(rates.cost_nano_usd(counts_of(o.arrival)) for o in finished if o.placement == FAR)
    return Played(
        own_usd=decider.paid_s * fleet.usd_per_s,
        remote_usd=remote / 1e9,
        slo_met=sum(map(met, interactive)) / max(1, len(interactive)),
        refused=sum(o.kind is OutcomeKind.REJECTED for o in outcomes) / len(outcomes),
        mean_servers=decider.paid_s / day.day_s,
        changes=decider.changes,
    )


def main() -> None:
    """Plays the fixed fleets and the one that is scaled, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--day-s", type=float, default=3600.0, help="length of the scaled day")
    parser.add_argument("--load", type=float, default=NEWSVENDOR_LOAD)
    parser.add_argument("--replicas", type=int, default=2, help="servers that --load refers to")
    parser.add_argument("--most", type=int, default=4, help="most servers")
    parser.add_argument("--start-s", type=float, default=60.0, help="from order to service")
    parser.add_argument("--up-s", type=float, default=60.0, help="scaleUpWindowSeconds")
    parser.add_argument("--down-s", type=float, default=300.0, help="scaleDownWindowSeconds")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    day = Day(
        replicas=args.replicas,
        day_s=args.day_s,
        capacity_per_s=QWEN_CAPACITY_PER_S,
        load=args.load,
        seed=args.seed,
    )
    limits = ReplicaLimits(
        least=1, most=args.most, up_window_s=args.up_s, down_window_s=args.down_s
    )
    arrivals = list(day_arrivals(day, FLEETS["qwen"]))
    print(f"{len(arrivals)} requests in {args.day_s:g} s", flush=True)
    print("| servers | own | remote | total | SLO kept | refused | mean servers | changes |")
    print("|---|---|---|---|---|---|---|---|")
    bills: list[float] = []
    for fixed in (*range(1, args.most + 1), None):
        scaling = Scaling(limits=limits, start_s=args.start_s, fixed=fixed)
        found = play(day, arrivals, scaling)
        print(
            f"| {fixed or 'by money'} | ${found.own_usd:.2f} | ${found.remote_usd:.2f}"
            f" | ${found.usd:.2f} | {found.slo_met:.1%} | {found.refused:.1%}"
            f" | {found.mean_servers:.2f} | {found.changes} |",
            flush=True,
        )
        bills.append(found.usd)
    *fixed_bills, scaled = bills
    print(f"\nby money over the best fixed fleet: {scaled / min(fixed_bills) - 1.0:+.1%}")


if __name__ == "__main__":
    main()
