"""Single steps of a real vLLM (CPU, tiny MoE) that computed prompts beside sequences that decode.

Recorded by `tests/vllm/mixed_steps.py` on a machine that other work shared, so each pair of a batch
and a prompt is judged by its median.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest

from scheduler.engine_steps import EngineStep, EngineSteps
from scheduler.step_time.single_steps import windows_of
from scheduler.step_time.step_fit import StepFit
from scheduler.step_time.step_model import QWEN3_30B_H100, StepModel

PATH = Path(__file__).resolve().parents[2] / "golden" / "vllm_0_32" / "mixed_steps.json"
TINY = replace(QWEN3_30B_H100, experts=16, experts_per_token=4)
FEWEST = 4
"""Steps of a pair that is judged."""
Row = tuple[float, int, int, int]
"""Seconds, sequences that decode, prompts, prompt tokens."""


def rows() -> list[Row]:
    return [tuple(row) for row in json.loads(PATH.read_text())["steps"]]


def steps_of(some: list[Row]) -> EngineSteps:
    return EngineSteps(
        placement="a",
        at_s=0.0,
        steps=tuple(
            EngineStep(
                rank=0,
                at_s=0.01 * at,
                took_s=took_s,
                sequences=batch,
                decode_tokens=batch,
                output_tokens=batch,
                prefills=prompts,
                prefill_tokens=tokens,
                prompt_tokens=tokens,
                kv_usage=0.0,
            )
            for at, (took_s, batch, prompts, tokens) in enumerate(some)
        ),
    )


@pytest.fixture(scope="module")
def fitted() -> StepModel:
    """Fitted to the steps with sequences that decode; prompts alone are timed otherwise there."""
    fit = StepFit(TINY)
    beside = [row for row in rows() if row[1]]
    for begin in range(0, len(beside), 200):
        event = steps_of(beside[begin : begin + 200])
        fit.observe_steps(windows_of(event, kv_capacity_tokens=0, from_s=0.0))
    return fit.model


def medians() -> dict[tuple[int, int], float]:
    """Seconds of steps with one prompt, by batch and prompt tokens."""
    found: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
    for took_s, batch, prompts, tokens in rows():
        if batch and prompts == 1:
            found[batch, tokens].append(took_s)
    return {pair: median(times) for pair, times in found.items() if len(times) >= FEWEST}


def test_the_recording_holds_every_batch_and_prompt() -> None:
    assert len(medians()) >= 40
    assert {batch for batch, _ in medians()} >= {1, 2, 4, 8, 16, 24}


def test_a_step_with_a_prompt_is_predicted_from_decodes_and_prompt_together(
    fitted: StepModel,
) -> None:
    misses = [
        (fitted.decode_step_s(batch, 0) + fitted.prefill_time_s(tokens, tokens, batch)) / took_s - 1
        for (batch, tokens), took_s in medians().items()
    ]
    assert abs(median(misses)) < 0.25
    assert median(map(abs, misses)) < 0.25


def test_one_that_paid_the_fixed_part_and_the_experts_twice_would_take_longer(
    fitted: StepModel,
) -> None:
    """Of short prompts, whose own work does not hide it."""
    misses = [
        (fitted.decode_step_s(batch, 0) + fitted.prefill_time_s(tokens, tokens)) / took_s - 1
        for (batch, tokens), took_s in medians().items()
        if tokens <= 256
    ]
    assert median(misses) > 0.25
