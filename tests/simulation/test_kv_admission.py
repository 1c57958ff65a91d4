"""KV caches under the scheduler: filled where answers end in turn, else not overrun."""

from __future__ import annotations

import numpy as np

from scheduler.contract import PlacementKind
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.arrivals import Arrival, Outcome, OutcomeKind
from simulation.decider import SimulatedPlacement
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.fleet import FleetSimulation
from tests.scheduler.requests_made import request

CONFIG = EngineConfig(max_num_seqs=128, num_gpu_blocks=4096)
CAPACITY = 65_536
PROMPT, LONGEST = 2000, 400


def arrival(name: str, at_s: float, output_tokens: int) -> Arrival:
    made = request(
        name, arrival_s=at_s, prompt_tokens=PROMPT, max_output_tokens=LONGEST, ttft_s=500.0,
        tpot_s=5.0, max_queue_s=500.0, deadline_s=1e6,
    )  # fmt: skip
    return Arrival(request=made, output_tokens=output_tokens)


def played(arrivals: list[Arrival], last: str) -> tuple[int, list[float], list[int]]:
    """Preemptions, and of the reports since the first request whose name begins with `last` came:
    the use of the cache and the sequences that run."""
    from_s = next(a.request.arrival_s for a in arrivals if a.request.request_id.startswith(last))
    facts = Placement(
        name="p/a", pool="p", kind=PlacementKind.SELF_HOSTED, model="moe", max_running=128,
        kv_capacity_tokens=CAPACITY, step_model=QWEN3_30B_H100, nano_usd_per_s=1_000_000,
    )  # fmt: skip
    limits = SchedulerLimits(queue=QueueLimits(requests=4000, size_bytes=1 << 30), attempts=2)
    engine = Engine(CONFIG, Physics(QWEN3_30B_H100), 1)
    usage: list[float] = []
    batches: list[int] = []
    outcomes: list[Outcome] = []

    def sample(now: float) -> None:
        if now > from_s:
            usage.append(engine.kv_usage)
            batches.append(sum(rank.batch for rank in engine.ranks))

    FleetSimulation(
        [SimulatedPlacement("p/a", engine)], Scheduler((facts,), limits), arrivals,
        outcomes.append, on_report=sample,
    ).run()  # fmt: skip
    assert all(outcome.kind is OutcomeKind.FINISHED for outcome in outcomes)
    assert len(outcomes) == len(arrivals)
    return engine.counters.preemptions, usage, batches


def test_equal_answers_that_start_together_are_never_preempted() -> None:
    taught = [arrival(f"early-{i}", i * 0.5, LONGEST) for i in range(300)]
    bursts = [
        arrival(f"burst-{burst}-{i}", 200.0 + 40.0 * burst, LONGEST)
        for burst in range(3)
        for i in range(60)
    ]
    preemptions, usage, batches = played(taught + bursts, "burst")
    assert preemptions == 0
    assert CAPACITY // (PROMPT + LONGEST) - 3 <= max(batches) <= CAPACITY // (PROMPT + LONGEST)
    assert max(usage) > 0.85


def test_answers_that_end_in_turn_fill_the_cache() -> None:
    rng = np.random.default_rng(7)
    load = [
        arrival(f"r-{i}", float(at_s), int(rng.integers(1, LONGEST)))
        for i, at_s in enumerate(np.cumsum(rng.exponential(1 / 60.0, 700)))
    ]
    preemptions, usage, _ = played(load, "r-200")
    full = usage[: int(0.7 * len(usage))]
    assert float(np.mean(full)) > 0.94
    assert preemptions < 0.02 * len(load)
