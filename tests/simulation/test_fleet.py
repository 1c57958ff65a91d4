"""A simulated fleet behind the scheduler: nothing is lost, and the truth adds up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    EngineReport,
    Event,
    Evict,
    PlacementKind,
    Progress,
    Request,
    Slo,
    SloClass,
    Start,
    Tick,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.arrivals import Arrival, ExternalArrival, Outcome, OutcomeKind
from simulation.decider import FleetTiming, SimulatedPlacement
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import ExpertLoad, Physics, perturbed
from simulation.engine.sequences import LengthRequest
from simulation.fleet import FleetSimulation
from simulation.generators import AZURE_CONVERSATION, single_turns
from simulation.powered import PoweredTime
from tests.known import known

MODEL = "m"
SLO = Slo(slo_class=SloClass.INTERACTIVE, ttft_s=2.0, tpot_s=0.05, max_queue_s=1.0)
CONFIG = EngineConfig(
    max_num_seqs=8, max_num_batched_tokens=512, num_gpu_blocks=160, max_model_len=2048
)


def arrival(
    name: str,
    at_s: float,
    prompt: int,
    output: int,
    *,
    gives_up_s: float | None = None,
    content: tuple[int, ...] = (),
) -> Arrival:
    request = Request(
        request_id=name,
        tenant="t",
        model=MODEL,
        arrival_s=at_s,
        deadline_s=at_s + 60.0,
        slo=SLO,
        priority=0,
        prompt_tokens=prompt,
        max_output_tokens=512,
        choices=1,
        size_bytes=4 * prompt,
        remote_classes=frozenset(),
        prompt_tokens_exact=True,
    )
    return Arrival(request=request, output_tokens=output, content=content, gives_up_s=gives_up_s)


def scheduler(names: list[str], queue: int = 20) -> Scheduler:
    placements = (
        Placement(
            name=name,
            kind=PlacementKind.SELF_HOSTED,
            model=MODEL,
            max_running=CONFIG.max_num_seqs,
            pool="p",
            step_model=QWEN3_30B_H100,
        )
        for name in names
    )
    return Scheduler(
        placements,
        SchedulerLimits(queue=QueueLimits(requests=queue, size_bytes=1 << 20), attempts=2),
    )


def engines(count: int, seed: int = 0, config: EngineConfig = CONFIG) -> list[SimulatedPlacement]:
    physics = Physics(perturbed(QWEN3_30B_H100, seed), ExpertLoad(zipf_exponent=0.6))
    return [
        SimulatedPlacement(f"e{i}", Engine(config, physics, seed * 100 + i)) for i in range(count)
    ]


loads = st.lists(
    st.tuples(
        st.floats(0.0, 0.4),  # gap
        st.integers(1, 1500),  # prompt
        st.integers(1, 300),  # output
        st.none() | st.floats(0.001, 4.0),  # gives up
    ),
    min_size=1,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(loads, st.integers(1, 3), st.integers(1, 2), st.booleans(), st.floats(0.05, 2.0))
def test_nothing_is_lost_and_the_truth_adds_up(
    load: list[tuple[float, int, int, float | None]],
    replicas: int,
    ranks: int,
    others: bool,
    every_s: float,
) -> None:
    config = EngineConfig(
        max_num_seqs=4,
        max_num_batched_tokens=512,
        num_gpu_blocks=160,
        max_model_len=2048,
        ranks=ranks,
    )
    placements = engines(replicas, config=config)
    core = scheduler([p.name for p in placements])
    arrivals, at_s = [], 0.0
    for number, (gap, prompt, output, gives_up_s) in enumerate(load):
        at_s += gap
        arrivals.append(arrival(f"r{number}", at_s, prompt, output, gives_up_s=gives_up_s))
    external = [
        ExternalArrival(
            at_s=0.1 * i,
            placement="e0",
            request=LengthRequest(request_id=f"x{i}", prompt_tokens=300, tokens=80),
        )
        for i in range(8 if others else 0)
    ]
    outcomes: list[Outcome] = []
    fleet = FleetSimulation(placements, core, arrivals, outcomes.append, external=external)
    until_s = 0.0
    while until_s < at_s + 400.0:
        until_s += every_s if until_s < at_s + 5.0 else 100.0
        fleet.run_until(until_s)
        counts = fleet.counts
        assert counts.conserved, counts
        assert counts.queued == core.queued_requests
        for placement in placements:
            for rank in placement.engine.ranks:
                assert 0 <= rank.pool.used_blocks <= config.num_gpu_blocks
    assert fleet.counts.submitted == len(load) == len(outcomes)
    assert (fleet.counts.running, fleet.counts.queued) == (0, 0)
    assert len({o.arrival.request.request_id for o in outcomes}) == len(load)
    for outcome in outcomes:
        if outcome.kind is OutcomeKind.FINISHED:
            assert outcome.output_tokens == outcome.arrival.output_tokens
            assert outcome.gpu_s > 0.0
    busy_s = sum(p.engine.truth.busy_s for p in placements)
    caused_s = sum(o.gpu_s for o in outcomes) + fleet.external_gpu_s
    assert caused_s == pytest.approx(busy_s, rel=1e-6)
    assert (fleet.external_gpu_s > 0.0) == others


def chat(count: int, rate_per_s: float, seed: int) -> Iterator[Arrival]:
    for number, row in enumerate(islice(single_turns(AZURE_CONVERSATION, rate_per_s, seed), count)):
        prompt, output = min(1200, row.prompt_tokens), min(500, row.output_tokens)
        yield arrival(f"r{number}", row.at_s, prompt, output)


def test_the_same_seed_gives_the_same_run_and_another_a_different_one() -> None:
    runs = []
    for seed in (1, 1, 2):
        placements = engines(2, seed)
        outcomes: list[Outcome] = []
        core = scheduler([p.name for p in placements])
        FleetSimulation(placements, core, chat(150, 6.0, seed), outcomes.append).run()
        runs.append([(o.arrival.request.request_id, o.kind, o.ended_s, o.gpu_s) for o in outcomes])
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


class Recorded:
    """The scheduler, and what it was told."""

    def __init__(self, core: Scheduler) -> None:
        self.core = core
        self.events: list[tuple[float, Event]] = []

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        return self.core.submit(request, now)

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        self.events.append((now, event))
        return self.core.handle(event, now)

    def tick(self, now: float) -> Tick:
        return self.core.tick(now)


def test_progress_and_reports_reach_the_scheduler_as_late_as_in_production() -> None:
    placements = engines(1)
    decider = Recorded(scheduler(["e0"]))
    timing = FleetTiming(report_s=0.5, report_lag_s=0.1, progress_s=0.25)
    outcomes: list[Outcome] = []
    load = [arrival("a", 0.0, 500, 400)]
    FleetSimulation(placements, decider, load, outcomes.append, timing=timing).run()
    [outcome] = outcomes
    assert outcome.kind is OutcomeKind.FINISHED
    told = [(now, e.output_tokens) for now, e in decider.events if isinstance(e, Progress)]
    assert told[0] == (outcome.first_token_s, 1), "the first token at once"
    tokens = [count for _, count in told]
    assert tokens == sorted(set(tokens))
    assert [now for now, _ in told[1:]] == [0.25 * i for i in range(1, len(told))]
    reports = [(now, e) for now, e in decider.events if isinstance(e, EngineReport)]
    assert [now for now, _ in reports] == pytest.approx([e.at_s + 0.1 for _, e in reports])
    first = reports[0][1]
    assert (first.running, first.waiting) == (1, 0)
    assert known(first.kv_usage) > 0.0
    assert first.generation_tokens_total == next(n for now, n in told if now == first.at_s)
    last = decider.events[-1][1]
    assert isinstance(last, AttemptEnded | EngineReport)


def test_a_shared_prefix_is_found_by_its_blocks() -> None:
    config = EngineConfig(num_gpu_blocks=1024, max_model_len=8192, extent_blocks=8, noise_sigma=0.0)
    placements = engines(1, config=config)
    outcomes: list[Outcome] = []
    first = arrival("a", 0.0, 1000, 100, content=(1, 2, 3, 4, 5, 6, 7, 8))
    # Its prompt is the whole turn before: 1,000 + 100 tokens, 8 full blocks of 128.
    second = arrival("b", 5.0, 1300, 10, content=(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    FleetSimulation(placements, scheduler(["e0"]), [first, second], outcomes.append).run()
    assert [o.cached_tokens for o in outcomes] == [0, 1024]


def test_powered_time_counts_the_release_delay_once() -> None:
    powered = PoweredTime(30.0)
    powered.begin(10.0)
    powered.begin(11.0)
    powered.end(20.0)
    assert powered.total_s(25.0) == 15.0
    assert powered.total_s(100.0) == 40.0
    powered.begin(40.0)  # still within the delay
    powered.end(45.0)
    powered.begin(200.0)
    assert powered.total_s(210.0) == 65.0 + 10.0


class EvictsOnce:
    """Sends all to one placement, and takes each back once."""

    def __init__(self) -> None:
        self.attempts: dict[str, int] = {}
        self.ended: list[AttemptEnded] = []

    def submit(self, request: Request, now: float) -> Sequence[Action]:
        return [self._dispatch(request.request_id)]

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        if isinstance(event, AttemptEnded):
            self.ended.append(event)
            if event.outcome is AttemptOutcome.EVICTED:
                return [self._dispatch(event.request_id)]
        return ()

    def tick(self, now: float) -> Tick:
        first = [name for name, attempt in self.attempts.items() if attempt == 1]
        evictions = tuple(Evict(request_id=name, attempt=1, reason="test") for name in first)
        return Tick(actions=evictions, next_wake_s=None)

    def _dispatch(self, request_id: str) -> Start:
        self.attempts[request_id] = self.attempts.get(request_id, 0) + 1
        return Start(
            request_id=request_id,
            attempt=self.attempts[request_id],
            placement="e0",
            kind=PlacementKind.SELF_HOSTED,
            reason="",
            predicted_ttft_s=None,
            predicted_tpot_s=None,
        )


@pytest.mark.parametrize("whole_answer", [True, False])
def test_an_evicted_attempt_is_paid_and_begins_anew(whole_answer: bool) -> None:
    placements = engines(1)
    made = arrival("a", 0.0, 500, 200)
    made = replace(made, request=structs.replace(made.request, whole_answer=whole_answer))
    decider, outcomes = EvictsOnce(), list[Outcome]()
    # The first token is there before the first tick.
    FleetSimulation(placements, decider, [made], outcomes.append).run()
    [outcome] = outcomes
    assert outcome.kind is OutcomeKind.FINISHED
    expected = [AttemptOutcome.EVICTED, AttemptOutcome.OK] if whole_answer else [AttemptOutcome.OK]
    assert [event.outcome for event in decider.ended] == expected
    assert outcome.gpu_s == pytest.approx(placements[0].engine.truth.busy_s)
