"""The simulated engines against vLLM's own scheduler, step by step, with KV caches that are too
small: `tests/vllm/scheduler_steps.py` recorded what it chose."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks.referee.engine import Figures, RefereeEngine, Resident, Size
from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.engine.sequences import TokenRequest
from simulation.output import FinishReason, Output

PATH = Path(__file__).resolve().parents[1] / "golden" / "vllm_0_32" / "scheduler_steps.json"
LONGEST_TOKENS = 64
MOST_STEPS = 1000
FIGURES = Figures(
    experts=8, experts_per_token=2, fixed_s=1e-3, expert_s=1e-4, each_s=1e-5, memory_s=1e-8,
    token_s=1e-5, attention_s=1e-10,
)  # fmt: skip

Row = tuple[dict[str, int], list[str], list[str], list[str], int]
"""Tokens by request, names preempted, running, waiting, free blocks."""


class Recorded(msgspec.Struct):
    """A case; `load`: name, step of arrival, first token of the prompt, its tokens, output."""

    size: dict[str, int]
    load: list[tuple[str, int, int, int, int]]
    steps: list[Row]


CASES = msgspec.json.decode(PATH.read_bytes(), type=list[Recorded])


def played(case: Recorded) -> list[Row]:
    """The rows of the simulated engine."""
    size = case.size
    config = EngineConfig(
        max_num_seqs=size["sequences"],
        max_num_batched_tokens=size["step_tokens"],
        num_gpu_blocks=size["blocks"],
        block_size=size["block_size"],
        max_model_len=LONGEST_TOKENS,
        noise_sigma=0.0,
    )
    engine = Engine(config, Physics(QWEN3_30B_H100), 0)
    [rank] = engine.ranks
    coming, rows = list(case.load), list[Row]()
    while coming or engine.has_work:
        while coming and coming[0][1] <= len(rows):
            name, _, first, prompt_tokens, output_tokens = coming.pop(0)
            seed = 1_000_003 * (len(case.load) - len(coming))
            output = Output(seed=seed, tokens=output_tokens, finish_reason=FinishReason.LENGTH)
            prompt = tuple(range(first, first + prompt_tokens))
            engine.add(TokenRequest(request_id=name, prompt_ids=prompt, outputs=(output,)), 0.0)
        ran = [one.request.request_id for one in rank.running]
        engine.begin_step(0.0)
        tokens = {one.request.request_id: 1 for one in rank.running if one.decodes}
        tokens |= {one.request.request_id: chunk for one, chunk in rank.prefills}
        running = [one.request.request_id for one in rank.running]
        waiting = [one.request.request_id for one in rank.waiting]
        left = sorted(set(ran) - set(running))
        rows.append((tokens, left, running, waiting, rank.pool.free_blocks))
        engine.finish_step()
        assert len(rows) < MOST_STEPS
    return rows


def refereed(case: Recorded) -> list[Row]:
    """The rows of the referee, whose blocks are tokens."""
    size = case.size
    engine = RefereeEngine(
        FIGURES,
        Size(
            kv_tokens=size["blocks"],
            block_tokens=1,
            sequences=size["sequences"],
            step_tokens=size["step_tokens"],
        ),
    )
    coming, rows = list(case.load), list[Row]()
    while coming or engine.has_work:
        while coming and coming[0][1] <= len(rows):
            name, _, _, prompt_tokens, output_tokens = coming.pop(0)
            content = [(name, at) for at in range(prompt_tokens + output_tokens)]
            engine.add(Resident(name, prompt_tokens, output_tokens, content))
        ran = [one.name for one in engine.running]
        engine.begin()
        running, waiting = [one.name for one in engine.running], [o.name for o in engine.waiting]
        left = sorted(set(ran) - set(running))
        free = size["blocks"] - engine.used_tokens
        computed = {one.name: one.computed for one in engine.running}
        now = list(engine.running)
        engine.finish(float(len(rows)))
        tokens = {one.name: one.computed - computed[one.name] for one in now}
        rows.append((tokens, left, running, waiting, free))
        assert len(rows) < MOST_STEPS
    return rows


@pytest.mark.parametrize("case", CASES)
def test_the_simulated_engine_chooses_as_vllm(case: Recorded) -> None:
    assert any(left for _, left, *_ in case.steps)
    assert played(case) == case.steps


@pytest.mark.parametrize("case", [case for case in CASES if case.size["block_size"] == 1])
def test_the_referee_chooses_as_vllm(case: Recorded) -> None:
    assert refereed(case) == case.steps
