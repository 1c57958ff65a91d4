"""Advice on the chunk of a step where prompts make long gaps."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.step_time.step_model import QWEN3_30B_H100
from simulation.engine.engine import Engine
from simulation.engine.engine_config import EngineConfig
from simulation.engine.physics import Physics
from simulation.engine.sequences import LengthRequest
from simulation.planner.chunks import LONGEST_GAP_S, advise, longest_gap_s
from simulation.planner.operating import Lengths

SLOW = QWEN3_30B_H100.scaled(prefill=4.0)


def lengths(prompt: float, cached: float = 0.0) -> Lengths:
    return Lengths(prompt_tokens=prompt, cached_tokens=cached, output_tokens=200.0)


def test_short_prompts_and_fast_engines_need_no_advice() -> None:
    assert advise(QWEN3_30B_H100, lengths(8000), 16) is None
    assert advise(SLOW, lengths(1000), 16) is None
    assert advise(SLOW, lengths(20_000, 19_500), 16) is None, "most of it is cached"


def test_the_largest_chunk_that_keeps_gaps_short_is_advised_with_its_price() -> None:
    found = advise(SLOW, lengths(20_000), 16)
    assert found is not None
    assert found.gap_s > LONGEST_GAP_S
    assert found.chunk_tokens == 2048
    assert found.chunk_gap_s is not None
    assert found.chunk_gap_s <= LONGEST_GAP_S < longest_gap_s(SLOW, lengths(20_000), 16, 4096)
    assert found.slower is not None
    assert 0.0 < found.slower < 0.5


def test_where_no_chunk_is_small_enough_it_says_so() -> None:
    found = advise(QWEN3_30B_H100.scaled(prefill=40.0), lengths(20_000), 16)
    assert found is not None
    assert found.chunk_tokens is None


def test_the_gap_is_the_longest_step_of_a_simulated_engine() -> None:
    model = replace(QWEN3_30B_H100, kv_token_s=0.0)
    engine = Engine(EngineConfig(noise_sigma=0.0), Physics(model), 0)
    for number in range(4):
        engine.add(LengthRequest(request_id=f"r{number}", prompt_tokens=8, tokens=40), 0.0)
    engine.step(0.0)
    engine.add(LengthRequest(request_id="long", prompt_tokens=6000, tokens=2), 0.0)
    took_s = engine.step(0.0).duration_s
    assert took_s == pytest.approx(longest_gap_s(model, lengths(6000), 4, 8192), rel=0.01)
