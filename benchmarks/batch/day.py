"""A scaled day with offline jobs: what batches fill, and what they cost interactive requests.

The scheduler of production decides for simulated engines. Interactive load rises and falls over the
day; a backlog of offline items without end fills what is free, as the batch lane does: so many
items wait for a placement, and no more. The same day is played without them. Then a job of a
night is priced beside the same job at a remote's batch price.

    python -m benchmarks.batch.day --replicas 4 --day-s 1200
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import structs

from benchmarks.day import (
    QWEN_CAPACITY_PER_S,
    TRUTH_SEED,
    Day,
    day_arrivals,
)
from benchmarks.lab.fleets import FLEETS, LabFleet
from benchmarks.lab.ours import own_placements
from scheduler.contract import (
    Action,
    Event,
    Evict,
    Objective,
    Refuse,
    Request,
    Slo,
    SloClass,
    Start,
    Tick,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.policy import Policy
from scheduler.queue.model_queue import QueueLimits
from simulation.arrivals import Arrival, Outcome, OutcomeKind
from simulation.fleet import FleetSimulation
from simulation.generators import AZURE_CONVERSATION

BATCH = "b"
"""First letter of the ids of items."""
ITEMS_WAITING = 16
"""Default of `batch.items_waiting`."""
LOOK_S = 0.1
"""How often the lane looks whether another item may wait."""
WARM_UP_SHARE = 0.1
"""Part of the day that is not measured: fits are learnt in it."""
BATCH_DISCOUNT = 0.5
"""Of the batch APIs of remotes."""


@dataclass(slots=True)
class Lane:
    """The scheduler with a backlog of items; `waiting`: those without a placement."""

    scheduler: Scheduler
    waiting: set[str] = field(default_factory=set)
    evictions: int = 0

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        """See `Decider`."""
        if request.request_id.startswith(BATCH):
            self.waiting.add(request.request_id)
        return self._seen(self.scheduler.submit(request, now))

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """See `Decider`."""
        return self._seen(self.scheduler.handle(event, now))

    def tick(self, now: float) -> Tick:
        """See `Decider`."""
        tick = self.scheduler.tick(now)
        self._seen(tick.actions)
        return tick

    def _seen(self, actions: Sequence[Action]) -> Sequence[Action]:
        for action in actions:
            if isinstance(action, Start | Refuse):
                self.waiting.discard(action.request_id)
            elif isinstance(action, Evict):
                self.evictions += 1
        return actions


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """Figures of one day. Times in seconds, of interactive and standard requests."""

    ttft_p50_s: float
    ttft_p99_s: float
    tpot_p50_s: float
    tpot_p99_s: float
    met: float
    requests: int
    busy: float
    interactive_tokens: int
    batch_tokens: int
    items: int
    evictions: int
    usd: float

    @property
    def usd_per_mtok(self) -> float:
        """The bill over all tokens."""
        return self.usd / (self.interactive_tokens + self.batch_tokens) * 1e6


def play(day: Day, policy: Policy, *, batches: bool, fleet: LabFleet = FLEETS["qwen"]) -> Played:
    """Plays a day to its end."""
    fleet = replace(fleet, replicas=day.replicas)
    own = fleet.placements(TRUTH_SEED, 16)
    placements = own_placements(fleet, [p.name for p in own], Objective.LATENCY)
    queue = QueueLimits(requests=4096, size_bytes=1 << 30)
    lane = Lane(Scheduler(placements, SchedulerLimits(queue=queue, attempts=2), policy))
    outcomes: list[Outcome] = []
    source = _Source(day, fleet, lane, batches=batches)
    simulation = FleetSimulation(own, lane, source.arrivals(), outcomes.append)
    simulation.run_until(day.day_s)
    measured = [
        each
        for each in outcomes
        if each.kind is OutcomeKind.FINISHED
        and each.arrival.request.arrival_s >= WARM_UP_SHARE * day.day_s
    ]
    people = [each for each in measured if not _is_item(each)]
    items = [each for each in measured if _is_item(each)]
    ttfts = [_ttft_s(each) for each in people]
    tpots = [_tpot_s(each) for each in people if each.output_tokens > 1]
    return Played(
        ttft_p50_s=float(np.percentile(ttfts, 50)),
        ttft_p99_s=float(np.percentile(ttfts, 99)),
        tpot_p50_s=float(np.percentile(tpots, 50)),
        tpot_p99_s=float(np.percentile(tpots, 99)),
        met=sum(map(_met, people)) / len(people),
        requests=len(people),
        busy=sum(p.engine.truth.busy_s for p in own) / (day.day_s * day.replicas),
        interactive_tokens=sum(map(_tokens, people)),
        batch_tokens=sum(map(_tokens, items)),
        items=len(items),
        evictions=lane.evictions,
        usd=day.replicas * fleet.usd_per_s * day.day_s * (1.0 - WARM_UP_SHARE),
    )


class _Source:
    """Interactive arrivals of the day, and items as far as the lane lets them wait."""

    def __init__(self, day: Day, fleet: LabFleet, lane: Lane, *, batches: bool) -> None:
        self._day = day
        self._fleet = fleet
        self._lane = lane
        self._batches = batches
        self._rng = np.random.default_rng(day.seed + 1000)
        self._items = 0

    def arrivals(self) -> Iterator[Arrival]:
        now = 0.0
        for arrival in day_arrivals(self._day, self._fleet):
            own = structs.replace(arrival.request, remote_classes=frozenset())
            at_s = own.arrival_s
            while self._batches and now < at_s:
                # One item a look, or as many as may wait: the next is drawn once it has come.
                if len(self._lane.waiting) >= ITEMS_WAITING:
                    now += LOOK_S
                if now < at_s:
                    yield self._item(now)
            now = at_s
            yield replace(arrival, request=own)

    def _item(self, now: float) -> Arrival:
        self._items += 1
        (prompt,) = AZURE_CONVERSATION.prompt.draw(self._rng, 1, 1.0)
        (output,) = AZURE_CONVERSATION.output.draw(self._rng, 1, 1.0)
        return Arrival(
            request=Request(
                request_id=f"{BATCH}{self._items}",
                tenant="night",
                model=self._fleet.model,
                arrival_s=now,
                deadline_s=now + 86_400.0,
                slo=Slo(slo_class=SloClass.BATCH, ttft_s=60.0, tpot_s=1.0, max_queue_s=600.0),
                priority=0,
                prompt_tokens=int(prompt),
                max_output_tokens=4096,
                choices=1,
                size_bytes=4 * int(prompt),
                remote_classes=frozenset(),
                prompt_tokens_exact=True,
                whole_answer=True,
            ),
            output_tokens=int(output),
        )


def _is_item(outcome: Outcome) -> bool:
    return outcome.arrival.request.slo.slo_class is SloClass.BATCH


def _ttft_s(outcome: Outcome) -> float:
    assert outcome.first_token_s is not None
    return outcome.first_token_s - outcome.arrival.request.arrival_s


def _tpot_s(outcome: Outcome) -> float:
    assert outcome.first_token_s is not None
    return (outcome.ended_s - outcome.first_token_s) / (outcome.output_tokens - 1)


def _met(outcome: Outcome) -> bool:
    slo = outcome.arrival.request.slo
    if _ttft_s(outcome) > slo.ttft_s:
        return False
    return outcome.output_tokens < 2 or _tpot_s(outcome) <= slo.tpot_s


def _tokens(outcome: Outcome) -> int:
    return outcome.arrival.request.prompt_tokens + outcome.output_tokens


def main() -> None:
    """Plays and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--replicas", type=int, default=4)
    parser.add_argument("--day-s", type=float, default=1200.0, help="length of the scaled day")
    parser.add_argument("--load", type=float, default=0.4, help="mean interactive load")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--pace-share", type=float, default=Policy().batch_pace_share)
    parser.add_argument("--flat", action="store_true", help="constant load")
    args = parser.parse_args()
    day = Day(
        replicas=args.replicas,
        day_s=args.day_s,
        capacity_per_s=QWEN_CAPACITY_PER_S,
        load=args.load,
        seed=args.seed,
        flat=args.flat,
    )
    policy = Policy(batch_pace_share=args.pace_share)
    for batches in (False, True):
        found = play(day, policy, batches=batches)
        print(f"{'with' if batches else 'without'} batches: {found}")
        measured_s = (1.0 - WARM_UP_SHARE) * day.day_s
        full = day.capacity_per_s * day.replicas * measured_s
        print(
            f"  ${found.usd_per_mtok:.4f} a million tokens;"
            f" {(found.requests + found.items) / full:.1%} of full saturation"
        )


if __name__ == "__main__":
    main()
