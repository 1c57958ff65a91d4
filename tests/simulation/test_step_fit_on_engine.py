"""The online fit on the counters of the simulated engine: chunked prefills, noise, expert skew."""

from __future__ import annotations

import numpy as np
import pytest

from scheduler.contract import EngineReport
from scheduler.engine_steps import EngineCounts
from scheduler.step_time.own_load import OwnCounts
from scheduler.step_time.step_fit import StepFit, StepSource
from scheduler.step_time.step_model import QWEN3_30B_H100
from scheduler.step_time.step_windows import WindowMeter
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import ExpertLoad, Physics
from simulation.engine.sequences import LengthRequest

SECONDS = 90.0
SKEW = ExpertLoad(zipf_exponent=0.6, expert_ranks=1)


def report_of(engine: Engine, now: float) -> EngineReport:
    counters = engine.counters
    capacity = engine.config.num_gpu_blocks * engine.config.block_size
    return EngineReport(
        placement="p",
        at_s=now,
        running=engine.running,
        waiting=engine.waiting,
        kv_usage=engine.kv_usage,
        prompt_tokens_total=counters.prompt_tokens,
        generation_tokens_total=counters.generation_tokens,
        kv_capacity_tokens=capacity,
        counts=EngineCounts(
            gaps=counters.inter_token_s.count,
            gaps_s=counters.inter_token_s.total,
            first_tokens=counters.ttft_s.count,
            steps=counters.step_tokens.count,
            cached_prompt_tokens=counters.prompt_tokens_cached,
            preemptions=counters.preemptions,
        ),
    )


def run(engine: Engine, fit: StepFit, rates: tuple[float, float], seed: int) -> list[int]:
    """Poisson arrivals between two rates; the batches that were stepped."""
    rng = np.random.default_rng(seed)
    meter = WindowMeter()
    now, arrival_s, report_s, number = 0.0, 0.0, 0.0, 0
    batches = []
    while now < SECONDS:
        rate = rates[0] + (rates[1] - rates[0]) * 0.5 * (1 - np.cos(now / 10.0))
        while arrival_s <= now:
            prompt = int(np.clip(rng.lognormal(6.5, 0.8), 16, 8000))
            answer = int(np.clip(rng.lognormal(4.9, 0.8), 2, 1000))
            engine.add(
                LengthRequest(request_id=str(number), prompt_tokens=prompt, tokens=answer), now
            )
            number += 1
            arrival_s += rng.exponential(1.0 / rate)
        result = engine.step(now)
        now = max(now + result.duration_s, now if result.duration_s else arrival_s)
        batches.append(engine.running)
        if now >= report_s:
            report_s = now + 1.0
            window = meter.take(report_of(engine, now), OwnCounts())
            if window is not None:
                fit.observe(window)
    return [batch for batch in batches if batch]


@pytest.mark.parametrize("factor", [0.5, 2.0])
@pytest.mark.parametrize("skew", [ExpertLoad(), SKEW], ids=["uniform", "skewed"])
def test_the_decode_time_of_the_engine_is_found(factor: float, skew: ExpertLoad) -> None:
    truth = QWEN3_30B_H100
    physics = Physics(truth, skew)
    engine = Engine(EngineConfig(noise_sigma=0.1), physics, 3)
    off = dict.fromkeys(("base", "experts", "sequences", "kv", "prefill"), factor)
    fit = StepFit(truth.scaled(**off))
    batches = run(engine, fit, (1.0, 9.0), seed=4)
    assert fit.source is StepSource.FIT
    model = fit.model
    kv = 900.0
    misses = [
        model.decode_step_s(batch, kv * batch)
        / (physics.decode_fixed_s(batch) + truth.kv_token_s * kv * batch)
        - 1.0
        for batch in batches
    ]
    assert float(np.mean(np.abs(misses))) < 0.05
    assert np.quantile(batches, 0.9) > 2 * np.quantile(batches, 0.1)
