"""Load above capacity on data-parallel servers, read from their /metrics as the gateway reads it.

KV capacity that is counted once per rank would admit several times what fits: preemptions, requests
that wait in the engine for a minute, and no refusal.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from gateway.upstream.vllm.metrics import parse_metrics, parse_rank_metrics
from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.metrics import Served, render
from scheduler.contract import EngineReport, PlacementKind
from scheduler.core import Scheduler, SchedulerLimits
from scheduler.placement_state import Placement
from scheduler.queue.model_queue import QueueLimits
from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation import fleet
from simulation.arrivals import Arrival, Outcome, OutcomeKind
from simulation.decider import SimulatedPlacement
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.fleet import FleetSimulation
from tests.scheduler.requests_made import request

NAME = "own/a"
BLOCKS = 4096
"""KV cache of the whole server, in blocks of 16 tokens."""
SEQUENCES = 1024
RATE = 12.0
"""Requests per second: above what the KV cache holds."""
REQUESTS = 600
WARM_UP_S = 15.0
SEED = 1
MOST_PREEMPTIONS = 30
"""With the right capacity 4 to 22 are seen; counted once per rank, it gives 75 to 154 of these
requests, and TTFT of 11 to 64 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an overload did."""

    preemptions: int
    ttft_p95_s: float
    refused: int


def report_as_read(placement: SimulatedPlacement, now: float) -> EngineReport:
    """What the gateway reads from the page that vLLM writes."""
    engine, size = placement.engine, placement.engine.config
    config = SimulatedVllmConfig(
        served_model_name="moe",
        num_gpu_blocks=size.num_gpu_blocks,
        block_size=size.block_size,
        max_model_len=size.max_model_len,
        max_num_seqs=size.max_num_seqs,
        data_parallel_size=size.ranks,
    )
    page = render(engine, Served(config=config, began_s=0.0, queue_rejections=0))
    if placement.rank is None:
        return parse_metrics(page, placement.name, now, size.max_model_len)
    names = [f"{NAME}/{rank}" for rank in range(size.ranks)]
    return parse_rank_metrics(page, names, now, size.max_model_len)[placement.rank]


def overload(ranks: int, *, pinned: bool) -> Result:
    """One server with `ranks` ranks, whose KV caches are `BLOCKS` together."""
    model = replace(QWEN3_30B_H100, ranks=ranks)
    size = EngineConfig(
        ranks=ranks,
        num_gpu_blocks=BLOCKS // ranks,
        max_num_seqs=SEQUENCES // ranks,
        max_num_batched_tokens=8192 // ranks,
        max_model_len=8192,
    )
    engine = Engine(size, Physics(model), SEED)
    whole = Placement(
        name=NAME, pool="own", kind=PlacementKind.SELF_HOSTED, model="moe",
        max_running=SEQUENCES, step_model=model if pinned else QWEN3_30B_H100,
        nano_usd_per_s=1_000_000, group=NAME,
    )  # fmt: skip
    facts = [whole]
    if pinned:
        facts = [
            replace(whole, name=f"{NAME}/{rank}", dp_rank=rank, max_running=SEQUENCES // ranks)
            for rank in range(ranks)
        ]
    core = Scheduler(
        facts, SchedulerLimits(queue=QueueLimits(requests=4096, size_bytes=1 << 30), attempts=2)
    )
    rng = np.random.default_rng(SEED)
    load = [
        Arrival(
            request=request(
                f"r{number}", arrival_s=float(at_s), prompt_tokens=int(rng.integers(500, 1500)),
                max_output_tokens=4096, ttft_s=4.0, tpot_s=1.0, max_queue_s=4.0, deadline_s=1e6,
            ),
            output_tokens=int(rng.integers(100, 900)),
        )
        for number, at_s in enumerate(np.cumsum(rng.exponential(1 / RATE, REQUESTS)))
    ]  # fmt: skip
    outcomes: list[Outcome] = []
    simulation = FleetSimulation(
        [SimulatedPlacement(each.name, engine, each.dp_rank) for each in facts],
        core,
        load,
        outcomes.append,
    )
    simulation.run()
    waits = [
        each.first_token_s - each.arrival.request.arrival_s
        for each in outcomes
        if each.first_token_s is not None and each.arrival.request.arrival_s > WARM_UP_S
    ]
    return Result(
        preemptions=engine.counters.preemptions,
        ttft_p95_s=float(np.quantile(waits, 0.95)),
        refused=sum(each.kind is OutcomeKind.REJECTED for each in outcomes),
    )


@cache
def one_rank() -> Result:
    """The same load on one rank with the same KV cache."""
    return overload(1, pinned=False)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("ranks", [4, 8])
def test_an_overload_of_ranks_goes_as_that_of_one_rank(
    ranks: int, pinned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet, "report_of", report_as_read)
    one, several = one_rank(), overload(ranks, pinned=pinned)
    assert one.preemptions <= MOST_PREEMPTIONS
    assert several.preemptions <= MOST_PREEMPTIONS
    assert several.ttft_p95_s <= 1.1 * one.ttft_p95_s
    assert one.refused > REQUESTS / 2, "no overload"
    assert several.refused == pytest.approx(one.refused, rel=0.1)
