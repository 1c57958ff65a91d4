"""The scheduler over a simulated fleet: fairness, starvation, overflow without flapping, ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from scheduler.contract import (
    Action,
    AttemptEnded,
    AttemptOutcome,
    Objective,
    PlacementKind,
    Progress,
    Refuse,
    Request,
    ServingChanged,
    SloClass,
    Start,
)
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.pricing import RateTier, TokenRates
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.arrivals import Arrival, Outcome, OutcomeKind
from simulation.decider import SimulatedPlacement
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.fleet import FleetSimulation
from tests.scheduler.requests_made import request

SMALL = EngineConfig(max_num_seqs=8, num_gpu_blocks=4096)


def own(name: str, *, objective: Objective = Objective.LATENCY, slots: int = 8) -> Placement:
    return Placement(
        name=name, pool="p", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=slots,
        kv_capacity_tokens=65_536, step_model=QWEN3_30B_H100, nano_usd_per_s=1_000_000,
        objective=objective,
    )  # fmt: skip


def play(
    placements: Sequence[Placement], arrivals: list[Arrival], queue: int = 512
) -> tuple[Scheduler, FleetSimulation, dict[str, Outcome]]:
    core = Scheduler(
        placements,
        SchedulerLimits(queue=QueueLimits(requests=queue, size_bytes=1 << 30), attempts=2),
    )
    outcomes: dict[str, Outcome] = {}

    def note(outcome: Outcome) -> None:
        assert outcome.arrival.request.request_id not in outcomes, "ended twice"
        outcomes[outcome.arrival.request.request_id] = outcome

    physics = Physics(QWEN3_30B_H100)
    engines = [
        SimulatedPlacement(p.name, Engine(SMALL, physics, seed))
        for seed, p in enumerate(placements)
    ]
    simulation = FleetSimulation(engines, core, arrivals, note)
    simulation.run()
    assert len(outcomes) == len(arrivals)
    assert repr(core) == "<Scheduler: 0 queued, 0 running>"
    for state in core.placements:
        assert (state.sequences, state.kv_tokens, state.kv_reserved_tokens) == (0, 0, 0)
    return core, simulation, outcomes


def arrive(made: Request, tokens: int) -> Arrival:
    return Arrival(request=made, output_tokens=tokens)


def in_time(outcome: Outcome) -> bool:
    made = outcome.arrival.request
    return (
        outcome.first_token_s is not None
        and outcome.first_token_s - made.arrival_s <= made.slo.ttft_s
    )


def test_a_light_tenant_is_served_in_time_beside_a_flood() -> None:
    rng = np.random.default_rng(3)
    load = []
    for i, at_s in enumerate(np.cumsum(rng.exponential(1 / 60.0, 1000))):
        tenant = "light" if i % 11 == 0 else "heavy"
        made = request(
            f"{tenant}-{i}", tenant=tenant, arrival_s=float(at_s), prompt_tokens=500,
            max_output_tokens=400, max_queue_s=5.0, deadline_s=1e6,
        )  # fmt: skip
        load.append(arrive(made, int(rng.integers(50, 150))))
    _, _, outcomes = play([own("p/a"), own("p/b")], load)
    light = [o for name, o in outcomes.items() if name.startswith("light")]
    heavy = [o for name, o in outcomes.items() if name.startswith("heavy")]
    assert sum(o.kind is OutcomeKind.REJECTED for o in heavy) > len(heavy) / 10, "no overload"
    assert sum(map(in_time, light)) >= 0.99 * len(light)


@pytest.mark.parametrize("weight", [1.0, 3.0])
def test_backlogged_tenants_get_service_by_weight(weight: float) -> None:
    """The difference of weighted service stays within what one batch can hold (VTC's bound)."""
    rng = np.random.default_rng(4)
    load = []
    for i in range(800):
        tenant = "ab"[i % 2]
        made = request(
            f"{tenant}{i}", tenant=tenant, weight=weight if tenant == "b" else 1.0,
            arrival_s=i * 0.02, prompt_tokens=int(rng.integers(100, 2000)),
            max_output_tokens=400, max_queue_s=60.0, ttft_s=60.0, deadline_s=1e6,
        )  # fmt: skip
        load.append(arrive(made, int(rng.integers(20, 200))))
    _, _, outcomes = play([own("p/a")], load, queue=4000)
    window = [o for o in outcomes.values() if 8.0 < o.ended_s < 18.0 and o.dispatched_s]
    served = Counter[str]()
    for outcome in window:
        made = outcome.arrival.request
        prefill_s = QWEN3_30B_H100.prefill_time_s(made.prompt_tokens, made.prompt_tokens)
        served[made.tenant] += round(1e9 * (prefill_s + 5e-4 * outcome.output_tokens))
    assert served["b"] / served["a"] == pytest.approx(weight, rel=0.25)


def test_every_class_comes_to_its_turn_under_overload() -> None:
    rng = np.random.default_rng(5)
    load = []
    for i in range(800):
        slo_class = (SloClass.INTERACTIVE, SloClass.INTERACTIVE, SloClass.BATCH)[i % 3]
        made = request(
            f"{slo_class}-{i}", slo_class, arrival_s=i * 0.015, prompt_tokens=400,
            max_output_tokens=300, max_queue_s=30.0,
            ttft_s=30.0 if slo_class is SloClass.BATCH else 3.0, deadline_s=1e6,
        )  # fmt: skip
        load.append(arrive(made, int(rng.integers(50, 200))))
    _, _, outcomes = play([own("p/a")], load, queue=4000)
    early = [
        o for name, o in outcomes.items()
        if name.startswith("batch") and o.first_token_s is not None and o.first_token_s < 11.0
    ]  # fmt: skip
    assert early, "the batch class gets its reserved share while interactive requests wait"


def test_packing_leaves_groups_to_release() -> None:
    load = [
        arrive(
            request(
                f"r{i}", arrival_s=i * 0.4, prompt_tokens=300, max_output_tokens=200,
                deadline_s=1e6,
            ),
            60,
        )
        for i in range(150)
    ]  # fmt: skip
    busy: dict[Objective, float] = {}
    for objective in Objective:
        names = [own(f"p/{c}", objective=objective) for c in "abcd"]
        _, simulation, outcomes = play(names, load)
        assert all(map(in_time, outcomes.values()))
        busy[objective] = sum(simulation.powered_s(60.0)) / 60.0
    assert busy[Objective.COST] < 0.5 * busy[Objective.LATENCY]


def rates(dollars: int) -> TokenRates:
    each = dollars * 1_000_000_000
    tier = RateTier(uncached_input=each, cached_input=each, cache_write=each, output=each)
    return TokenRates(row_id=f"{dollars}", tiers=(tier,))


class Remotes:
    """A fleet of one own server that takes 4, and remotes that answer at once; all in steps."""

    def __init__(self, *remotes: Placement) -> None:
        own_server = replace(own("p/a", slots=4), kv_capacity_tokens=None)
        self.core = Scheduler(
            (own_server, *remotes),
            SchedulerLimits(queue=QueueLimits(requests=64, size_bytes=1 << 20), attempts=2),
        )
        self.now = 0.0
        self.where: Counter[str] = Counter()
        self.switches = 0
        self.was_remote = False
        self.ends: list[tuple[float, str, int, bool]] = []
        for facts in (own_server, *remotes):
            self.core.handle(ServingChanged(placement=facts.name, serving=True, reason=""), 0.0)

    def take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Start):
                self.where[action.placement] += 1
                is_remote = action.kind is PlacementKind.REMOTE
                took_s = 0.6 if is_remote else 1.0
                self.ends.append((self.now + took_s, action.request_id, action.attempt, True))
                self.ends.append((self.now + 0.3, action.request_id, action.attempt, False))
            elif isinstance(action, Refuse):
                self.where["refused"] += 1

    def until(self, at_s: float) -> None:
        while True:
            wake_s = self.core.tick(self.now).next_wake_s
            due_s = min([end[0] for end in self.ends], default=at_s)
            step_s = min(at_s, due_s, wake_s if wake_s is not None else at_s)
            if step_s >= at_s:
                break
            self.now = max(self.now, step_s)
            for end in sorted(e for e in self.ends if e[0] <= self.now):
                self.ends.remove(end)
                _, name, attempt, over = end
                tokens = Progress(request_id=name, attempt=attempt, output_tokens=1)
                ended = AttemptEnded(
                    request_id=name, attempt=attempt, outcome=AttemptOutcome.OK, output_tokens=20
                )
                self.take(self.core.handle(ended if over else tokens, self.now))
            self.take(self.core.tick(self.now).actions)
        self.now = at_s


def far(name: str, dollars: int | None, remote_class: str = "eu") -> Placement:
    return Placement(
        name=name, kind=PlacementKind.REMOTE, model="moe", max_running=64,
        remote_class=remote_class, rates=None if dollars is None else rates(dollars),
    )  # fmt: skip


def test_overflow_goes_by_price_explores_a_little_and_never_sends_out_what_must_stay() -> None:
    fleet = Remotes(far("dear", 9), far("cheap", 2), far("unknown", None), far("us", 1, "us"))
    for i in range(1200):
        fleet.until(i * 0.05)
        classes = frozenset({"eu"}) if i % 4 else frozenset()
        made = request(
            f"r{i}", arrival_s=fleet.now, ttft_s=1.0, max_queue_s=2.0, deadline_s=1e6,
            remote_classes=classes,
        )  # fmt: skip
        before = fleet.where.copy()
        fleet.take(fleet.core.submit(made, fleet.now))
        if not classes:
            gone = fleet.where - before
            assert not {"dear", "cheap", "unknown", "us"} & gone.keys(), "content left"
    fleet.until(fleet.now + 30.0)
    where = fleet.where
    assert where["us"] == 0
    assert where["cheap"] > 10 * where["dear"] > 0, "exploration is a small share"
    assert where["unknown"] < 0.02 * where["cheap"], "an unknown price comes after all others"
    assert where["p/a"] > 0.9 * 4 * 60, "the own server is used first, and all the time"


def test_the_saturation_mark_does_not_flap_at_constant_load() -> None:
    fleet = Remotes(far("cheap", 2))
    [changes, marked] = [0, False]
    for i in range(2400):
        fleet.until(i * 0.25)  # 4 a second: what the own server just does
        made = request(
            f"r{i}", arrival_s=fleet.now, ttft_s=1.0, max_queue_s=2.0, deadline_s=1e6,
            remote_classes=frozenset({"eu"}),
        )  # fmt: skip
        fleet.take(fleet.core.submit(made, fleet.now))
        [pool] = fleet.core.snapshot(fleet.now).pools
        changes += pool.saturated is not marked
        marked = pool.saturated
    assert changes <= 10, "at most one change a minute over ten minutes"
