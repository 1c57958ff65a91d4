"""The step loop of the simulated vLLM: progress of a request, and its end before its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator

import pytest

from moegate.simulated_vllm.config import SimulatedVllmConfig
from moegate.simulated_vllm.driver import EngineDriver, RequestProgress
from moegate.simulated_vllm.step_recorder import StepRecorder
from moegate.vllm_plugin.feed import Step
from simulation.engine.engine import Engine
from simulation.engine.physics import Physics
from simulation.engine.sequences import TokenRequest
from simulation.output import StopRules, plan_output

LIMIT_S = 20.0
FAST = SimulatedVllmConfig(speed=100.0)


def request(name: str, tokens: int = 4, choices: int = 1) -> TokenRequest:
    rules = StopRules(
        max_tokens=tokens,
        min_tokens=tokens,
        ignore_eos=True,
        strings=(),
        token_ids=frozenset(),
        keep_string=False,
    )
    return TokenRequest(
        request_id=name,
        prompt_ids=[1, 2, 3],
        outputs=tuple(plan_output(seed, rules, 100.0) for seed in range(choices)),
        cache_salt="",
    )


@contextlib.asynccontextmanager
async def running(config: SimulatedVllmConfig = FAST) -> AsyncIterator[EngineDriver]:
    engine = Engine(config.engine_config(), Physics(config.scaled_step_model()), config.seed)
    driver = EngineDriver(engine, StepRecorder(engine, "0.32.0"))
    steps = asyncio.create_task(driver.run())
    try:
        async with asyncio.timeout(LIMIT_S):
            yield driver
    finally:
        steps.cancel()
        await asyncio.gather(steps, return_exceptions=True)


async def until_done(progress: RequestProgress) -> int:
    """Waits for all choices; returns how often the reader was woken."""
    wakes = 0
    while progress.unfinished:
        await progress.changed()
        wakes += 1
    return wakes


async def test_a_reader_sees_each_choice_to_its_end() -> None:
    async with running() as driver:
        progress = driver.submit(request("r", tokens=4, choices=2), only_end=False)
        assert await until_done(progress) > 1
        assert progress.tokens == [4, 4]
        driver.close(progress)
        assert driver.open_requests == 0
        assert not driver.engine.has_work


async def test_a_reader_of_the_whole_answer_is_woken_once() -> None:
    async with running() as driver:
        progress = driver.submit(request("r", tokens=4, choices=2), only_end=True)
        assert await until_done(progress) == 1


async def test_a_request_that_is_closed_leaves_the_engine() -> None:
    async with running() as driver:
        long = driver.submit(request("long", tokens=5000), only_end=False)
        await long.changed()
        driver.close(long)
        driver.close(long)
        assert (driver.open_requests, driver.engine.running) == (0, 0)
        short = driver.submit(request("short"), only_end=True)
        await until_done(short)
        assert short.tokens == [4]
        assert long.tokens[0] < 5000


async def test_an_id_that_runs_is_refused() -> None:
    async with running() as driver:
        driver.submit(request("r", tokens=5000), only_end=True)
        with pytest.raises(ValueError, match="r"):
            driver.submit(request("r"), only_end=True)


SMALL = SimulatedVllmConfig(speed=100.0, num_gpu_blocks=40, block_size=16, max_model_len=512)
"""Its KV cache holds 640 tokens: long answers preempt one another."""


@pytest.mark.parametrize(
    ("config", "tokens", "choices"), [(FAST, 20, 1), (FAST, 20, 3), (SMALL, 200, 1), (SMALL, 90, 3)]
)
async def test_what_requests_had_of_the_steps_is_told_with_their_ends(
    config: SimulatedVllmConfig, tokens: int, choices: int
) -> None:
    """All of them together had the time in which the engine stepped."""
    async with running(config) as driver:
        made = [
            driver.submit(request(f"r{n}", tokens + n, choices), only_end=False) for n in range(4)
        ]
        for progress in made:
            await until_done(progress)
        had_ms = []
        for progress in made:
            times = progress.times
            assert times is not None
            assert isinstance(times.moegate_prefill_ms, float)
            assert isinstance(times.moegate_decode_ms, float)
            had_ms.append(times.moegate_prefill_ms + times.moegate_decode_ms)
            whole_ms = times.moegate_whole_ms
            if times.generation_time_ms is not None and times.time_to_first_token_ms is not None:
                whole_ms = times.time_to_first_token_ms + times.generation_time_ms
            assert (times.generation_time_ms is None) == (choices > 1), "as vLLM tells it"
            assert isinstance(whole_ms, float)
            assert had_ms[-1] < whole_ms
        told = json.loads(driver._recorder.feed.answer([]))
        steps = [dict(zip(Step._fields, row, strict=True)) for row in told["steps"]]
        stepped_s = sum(step["period_s"] or step["elapsed_s"] for step in steps)
        assert sum(had_ms) == pytest.approx(1e3 * stepped_s, rel=0.05)
        preemptions = driver.engine.ranks[0].counters.preemptions
        assert (preemptions > 0) == (config is SMALL)
        again = [step for step in steps if step["preemptions"]]
        assert sum(step["preemptions"] for step in again) >= preemptions
        assert not driver._recorder._followed
